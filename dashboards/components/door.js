// The door of the labeling app. Name and token go to the server in the body of a POST and come back as a cookie that no
// script can read, so they stand in no address, history or log. An invitation brings them behind the # of its address,
// which browsers send to nobody; it is wiped before anything else happens.

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.textContent = text;
  return made;
}

async function enter(route, who) {
  let reply;
  try {
    const response = await fetch(route, {
      method: "POST", headers: { "Content-Type": "application/json" }, cache: "no-store", body: JSON.stringify(who),
    });
    reply = response.status === 204 ? {} : await response.json();
  } catch {
    reply = { error: "The server does not answer; try again." };
  }
  if (reply.error) return reply.error;
  if (who.project) location.replace(`/?project=${encodeURIComponent(who.project)}`);
  else location.reload();
  return "";
}

function invitation() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (!given.has("annotator")) return null;
  history.replaceState(history.state, "", location.pathname + location.search);
  return Object.fromEntries(given);
}

function field(name, label, facts) {
  const row = element("label", "field");
  const input = Object.assign(element("input", ""), { name, autocomplete: "off", ...facts });
  row.append(element("span", "", label), input);
  return [row, input];
}

function createDoor(root) {
  const form = element("form", "door");
  const notice = element("p", "notice");
  notice.setAttribute("role", "alert");
  const [nameRow, name] = field("annotator", "Your name", { maxLength: 60, placeholder: "Ada", required: true });
  const [tokenRow, token] = field("token", "Your token, if you were given one", { type: "password" });
  const start = element("button", "", "Start");
  form.append(
    element("h1", "", "Which video is better?"),
    element("p", "", "You will see two videos made for the same text. Pick the better one, by an arrow key or "
      + "a tap; there are no wrong answers, and every one can be undone."),
    nameRow, tokenRow, start, notice,
    element("p", "small", "Votes are stored under this name. Come back in this browser, or with the same name, to go on "
      + "where you stopped."),
  );
  form.addEventListener("keydown", (event) => event.stopPropagation());  // what is typed is no shortcut
  let data = {};
  const go = async (who) => {
    notice.textContent = await enter(data.route, who);
    if (notice.textContent && !root.contains(notice)) root.append(notice);  // an invitation that failed on another page
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go({ annotator: name.value, token: token.value });
  });
  const leave = element("button", "leave", "");
  leave.addEventListener("click", () => go({ annotator: "" }));

  function invited() {
    const who = invitation();
    if (who) go(who);
  }
  window.addEventListener("hashchange", invited);
  return {
    receive(newest) {
      data = newest;
      leave.textContent = `I am not ${data.annotator}`;
      notice.textContent = data.refused;
      root.replaceChildren(...(data.leaves ? [leave] : data.annotator ? [] : [form]));
      invited();
    },
    close() { window.removeEventListener("hashchange", invited); },
  };
}

export default function (component) {
  const root = component.parentElement;
  if (!root.door) {
    const box = element("div", "box");
    root.append(box);
    root.door = createDoor(box);
  }
  root.door.receive(component.data);
  return () => { root.door.close(); delete root.door; };
}
