// The labeling screen: prompt, two videos, one key per answer.
//
// The server decides which pair is shown; this file only ever answers the pair that is on the screen, with the lease it
// came with, once. After an answer the keys rest until the server has replied, because a key pressed while it works
// would be delivered late. `turn` grows with every reply.

const NAMES = { left: "left", right: "right", tie: "tie", both_bad: "both bad", skip: "skip" };
const ANSWER_KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", b: "both_bad", x: "both_bad", s: "skip" };

function createScreen(root) {
  const screen = make("div", "label");
  root.append(screen);
  const head = make("div", "head");
  const bar = make("div", "progress");
  const barFill = make("div", "fill");
  bar.append(barFill);
  const status = make("div", "status");
  const prompt = make("h1", "prompt");
  head.append(bar, status, prompt);
  const stage = make("div", "stage two");
  const notice = make("div", "notice");
  notice.setAttribute("role", "status");
  const done = make("div", "done");
  let player;
  const { bar: controls, update } = createControls(() => player);
  player = createPlayer(stage, update);
  const question = make("div", "question");
  const answers = make("div", "answers");
  const rows = make("div", "rows");
  const hints = make("div", "hints");
  screen.append(head, stage, controls, question, answers, done, rows, notice, hints);

  const pool = new Map();  // preloaded video elements by url
  let data = null;
  let component = null;
  let sentTurn = null;
  let chosen = {};
  let focus = null;  // the aspect that the next answer key is about; the last one closes the pair

  const closing = () => data.aspects[data.aspects.length - 1].id;
  const locked = () => sentTurn !== null && sentTurn === data.turn;

  const buttons = {};
  const answerButton = (choice, text, key) => {
    const button = makeButton(`answer ${choice}`, "", () => give(choice), `${text} (${key})`);
    button.append(make("kbd", "", key), make("span", "", text));
    buttons[choice] = button;
    return button;
  };
  answers.append(
    answerButton("left", "Left is better", "←"),
    answerButton("tie", "Tie", "↓"),
    answerButton("both_bad", "Both bad", "B"),
    answerButton("skip", "Skip", "S"),
    answerButton("right", "Right is better", "→"),
  );
  const undoButton = makeButton("quiet", "Undo", () => undo(), "Undo the last answer (Z)");
  const detailButton = makeButton("quiet", "", () => setDetail(!detail), "Ask about every aspect (D)");
  let detail = readDetail();

  function readDetail() {
    try { return localStorage.getItem("soralign-detail") === "1"; } catch { return false; }
  }
  function setDetail(value) {
    detail = value;
    try { localStorage.setItem("soralign-detail", value ? "1" : "0"); } catch { /* private window */ }
    focus = data && data.aspects.length ? firstQuestion() : null;
    drawAspects();
  }
  const firstQuestion = () => (detail ? data.aspects[0].id : closing());
  const nextQuestion = () => {
    const open = data.aspects.find((aspect) => detail && !(aspect.id in chosen) && aspect.id !== closing());
    return open ? open.id : closing();
  };

  function send(action) {
    if (!data || locked()) return;
    sentTurn = data.turn;
    screen.classList.add("busy");
    component.setTriggerValue("action", { ...action, turn: data.turn });
  }

  function give(choice) {
    if (!data || !data.pair || locked()) return;
    const aspect = choice === "skip" ? closing() : focus;
    if (data.pair.broken && choice !== "skip") return;
    chosen[aspect] = choice;
    if (aspect !== closing()) {
      focus = nextQuestion();
      drawAspects();
      return;
    }
    for (const [name, button] of Object.entries(buttons)) button.classList.toggle("given", name === choice);
    const answers = choice === "skip" ? { [aspect]: choice } : chosen;
    send({ lease: data.pair.lease, pair: data.pair.pair, answers });
  }

  function undo() { if (data && data.progress.done > 0) send({ undo: true }); }

  function drawAspects() {
    question.hidden = !data.pair;
    const aspect = data.aspects.find((one) => one.id === focus);
    question.textContent = aspect ? aspect.question : "";
    question.classList.toggle("aspect", focus !== closing());
    detailButton.textContent = detail ? "Only the last question" : "Ask every aspect";
    detailButton.hidden = data.aspects.length < 2 || !data.pair;
    undoButton.hidden = data.progress.done === 0;
    rows.replaceChildren(...data.aspects.slice(0, -1).map((one, index) => {
      const row = makeButton(one.id === focus ? "row focus" : "row", "", () => {
        focus = focus === one.id ? closing() : one.id;
        drawAspects();
      }, `Answer ${one.name} (${index + 1})`);
      row.append(make("kbd", "", String(index + 1)), make("span", "name", one.name),
        make("span", "choice", NAMES[chosen[one.id]] || "–"));
      row.classList.toggle("set", one.id in chosen);
      return row;
    }), detailButton, undoButton);
  }

  function drawHints() {
    const keys = [
      ["← →", "better"], ["↓", "tie"], ["B", "both bad"], ["S", "skip"], ["Z", "undo"], ["space", "play"],
      [", .", "frame"], ["< >", "speed"], ["+ −", "zoom"], ["0", "restart"], ["L", "loop"],
    ];
    if (data.aspects.length > 1) keys.push([`1–${data.aspects.length - 1}`, "aspect"], ["D", "every aspect"]);
    hints.replaceChildren(...keys.map(([key, what]) => {
      const hint = make("span", "hint");
      hint.append(make("kbd", "", key), make("span", "", what));
      return hint;
    }));
  }

  function take(url) {
    const video = pool.get(url) || makeVideo(url);
    pool.delete(url);
    return video;
  }

  function preload(urls) {
    for (const [url, video] of pool) {
      if (!urls.includes(url)) { video.removeAttribute("src"); video.load(); pool.delete(url); }
    }
    for (const url of urls) if (!pool.has(url)) pool.set(url, makeVideo(url));
  }

  function minutes(seconds) {
    if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
    return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  function drawProgress() {
    const { done: count, remaining, pace } = data.progress;
    const total = count + remaining;
    barFill.style.width = total ? `${(100 * count) / total}%` : "100%";
    const parts = [`${count} of ${total}`];
    if (pace && remaining) parts.push(`about ${minutes(pace * remaining)} left`);
    status.replaceChildren(make("span", "", parts.join(" · ")), make("span", "who", data.annotator));
  }

  function show(next) {
    const same = Boolean(data && data.pair && next.pair && data.pair.lease === next.pair.lease);
    data = next;
    screen.classList.remove("busy");
    screen.dataset.turn = data.turn;
    screen.dataset.pair = data.pair ? data.pair.pair : "";
    screen.dataset.done = data.progress.done;
    notice.textContent = data.notice || "";
    screen.classList.toggle("finished", !data.pair);
    drawProgress();
    drawHints();
    for (const button of Object.values(buttons)) button.classList.remove("given");
    if (!same) {
      chosen = {};
      focus = firstQuestion();
      if (data.pair) {
        prompt.textContent = data.pair.prompt || "(no prompt)";
        player.show([data.pair.left, data.pair.right], take);
      } else {
        player.show([], take);
        prompt.textContent = "";
        done.replaceChildren(
          make("div", "tick", "✓"),
          make("h1", "", data.progress.done ? "That was the last one. Thank you!" : "Nothing to label here."),
          make("p", "", data.progress.done
            ? `You judged ${data.progress.done} pairs. Press Z to go back to the last one.`
            : "Every pair has its votes already, or is on somebody else's screen right now. Look again later."),
        );
      }
    }
    drawAspects();
    preload(data.preload);
  }

  function key(event) {
    if (!data || isTaken(event)) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (name in ANSWER_KEYS) {
      event.preventDefault();
      if (!event.repeat) give(ANSWER_KEYS[name]);
    } else if (name === "z") {
      if (!event.repeat) undo();
    } else if (name === "d") {
      if (!event.repeat) setDetail(!detail);
    } else if (name === "Escape") {
      focus = closing();
      drawAspects();
    } else if (/^[1-9]$/.test(name) && Number(name) < data.aspects.length) {
      focus = data.aspects[Number(name) - 1].id;
      drawAspects();
    } else if (data.pair && playerKey(event, player)) {
      event.preventDefault();
    }
  }

  document.addEventListener("keydown", key);
  return {
    receive(newest) { component = newest; show(newest.data); },
    close() { document.removeEventListener("keydown", key); player.pause(); },
  };
}

// Streamlit calls this again for every change of data, but its cleanup only once: bind once, keep the newest component.
export default function (component) {
  const root = component.parentElement;
  if (!root.soralign) root.soralign = createScreen(root);
  root.soralign.receive(component);
  return () => { root.soralign.close(); delete root.soralign; };
}
