// The labeling screen: prompt, two videos, one key per answer.
//
// The server lends three pairs ahead, so the next one is on the screen before the answer to the last has arrived there.
// An answer names the lease of the pair it is about, so it can land on no other. Answers and undos wait in an outbox
// until the server has acknowledged them; one message is under way at a time, and is sent again when it got no reply.

const NAMES = { left: "left", right: "right", tie: "tie", both_bad: "both bad", skip: "skip" };
const ANSWER_KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", b: "both_bad", x: "both_bad" };
const PATIENCE_MILLISECONDS = 20000;
const RESEND_MILLISECONDS = 2000;
const LOOK_AGAIN_MILLISECONDS = 20000;  // while there is nothing to label
const LONG_PROMPT = 160;  // characters; two lines of a heading

function createScreen(root) {
  const screen = make("div", "label");
  root.append(screen);
  const head = make("div", "head");
  const bar = make("div", "progress");
  const barFill = make("div", "fill");
  bar.append(barFill);
  const status = make("div", "status");
  const prompt = make("h1", "prompt");
  prompt.dir = "auto";
  head.append(bar, status, prompt);
  const stage = make("div", "stage two");
  const notice = make("div", "notice");
  notice.setAttribute("role", "status");
  const done = make("div", "done");
  let player;
  const { bar: controls, update } = createControls(() => player);
  player = createPlayer(stage, (state) => { update(state); drawn(state); });
  const question = make("div", "question");
  const answers = make("div", "answers");
  const reasons = make("div", "reasons");
  const rows = make("div", "rows");
  const hints = make("div", "hints");
  const note = make("input", "note");
  note.type = "text"; note.maxLength = 500; note.hidden = true;
  screen.append(head, stage, controls, question, answers, reasons, note, done, rows, notice, hints);

  const pool = new Map();  // preloaded video elements by url
  let data = null;
  let address = null;      // where answers go, and as whom
  let queue = [];          // pairs to judge; the first is on the screen
  let onScreen = null;
  let history = [];        // pairs answered since the page was opened
  let outbox = [];         // actions without acknowledgement, oldest first
  let isSending = false;
  let nextId = 1;
  let chosen = {};
  let focus = null;        // the aspect that the next answer key is about; the last one closes the pair
  let isAsking = false;    // why a pair is skipped
  let shownAt = 0;
  let hiddenAt = null;
  let switchedAt = null;   // when a key called for the pair that is being drawn

  const closing = () => data.aspects[data.aspects.length - 1].id;
  const pair = () => queue[0] || null;

  const buttons = {};
  const answerButton = (choice, text, key, action) => {
    const button = makeButton(`answer ${choice}`, "", action || (() => give(choice)), `${text} (${key})`);
    button.append(make("kbd", "", key), make("span", "", text));
    buttons[choice] = button;
    return button;
  };
  answers.append(
    answerButton("left", "Left is better", "←"),
    answerButton("tie", "Tie", "↓"),
    answerButton("both_bad", "Both bad", "B"),
    answerButton("skip", "Skip", "S", () => ask(!isAsking)),
    answerButton("right", "Right is better", "→"),
  );
  const undoButton = makeButton("quiet", "Undo", () => undo(), "Undo the last answer (Z)");
  const noteButton = makeButton("quiet", "Note", () => write(), "Write a note about this pair (N)");
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
    outbox.push({ id: nextId++, ...action });
    flush();
  }

  // Sends what waits; to be told what there is now, even nothing.
  async function flush(evenNothing = false) {
    if (isSending || !(outbox.length || evenNothing)) return;
    isSending = true;
    let reply;
    try {
      const response = await fetch(address.route, {
        method: "POST", keepalive: true, headers: { "Content-Type": "application/json" }, cache: "no-store",
        body: JSON.stringify({ who: address.who, actions: outbox }), signal: AbortSignal.timeout(PATIENCE_MILLISECONDS),
      });
      reply = await response.json();
    } catch {
      reply = { error: "The server does not answer." };
    }
    isSending = false;
    if (reply.error && !outbox.length) return;
    if (reply.error) {
      say(`${reply.error} ${outbox.length === 1 ? "One answer waits" : `${outbox.length} answers wait`} here; trying again.`);
      setTimeout(flush, RESEND_MILLISECONDS);
      return;
    }
    say("");
    receive(reply);
  }

  function give(choice) {
    if (!pair()) return;
    if (pair().broken) { say("Nothing can be said about this pair; skip it with S."); return; }
    chosen[focus] = choice;
    if (focus !== closing()) {
      focus = nextQuestion();
      drawAspects();
      return;
    }
    if (player.state.watched < data.least - 0.01) {
      say(`Watch at least ${Math.round(100 * data.least)} % of both videos first.`);
      delete chosen[focus];
      return;
    }
    finish(chosen, note.value);
  }

  function finish(given, comment) {
    const seconds = (performance.now() - shownAt) / 1000;
    const watched = player.state.watched;
    const answered = queue.shift();
    history.push(answered);
    switchedAt = performance.now();
    draw();
    send({ lease: answered.lease, answers: given, seconds, watched, comment });
  }

  function undo() {
    const target = history.length ? history[history.length - 1].lease : data.last;
    if (!target || outbox.some((action) => action.undo === target)) { if (!target) say("Nothing to undo."); return; }
    if (history.length) queue.unshift(history.pop());
    data.last = null;
    switchedAt = performance.now();
    draw();
    send({ undo: target });
  }

  // Skipping asks why: a key for the usual reasons, words for others.
  function ask(open) {
    isAsking = open && pair() !== null;
    reasons.replaceChildren();
    reasons.hidden = !isAsking;
    screen.classList.toggle("asking", isAsking);
    buttons.skip.classList.toggle("given", isAsking);
    if (!isAsking) return;
    reasons.append(make("span", "", "Skip, because"));
    data.reasons.forEach((reason, index) => {
      const button = makeButton("row", "", () => skip(reason), `Skip: ${reason} (${index + 1})`);
      button.append(make("kbd", "", String(index + 1)), make("span", "", reason));
      reasons.append(button);
    });
    const other = makeButton("row", "", () => write(), "Skip for another reason (N)");
    other.append(make("kbd", "", "N"), make("span", "", "in your words"));
    reasons.append(other);
  }

  function skip(reason) { finish({ [closing()]: "skip" }, reason); }

  function write() {
    if (!pair()) return;
    note.hidden = false;
    note.placeholder = isAsking ? "Why? Enter skips the pair, Esc goes back" : "A note about this pair; Enter keeps it";
    note.focus();
  }
  note.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault();
    const words = note.value.trim();
    if (event.key === "Escape") note.value = "";
    note.hidden = !note.value.trim();
    note.blur();
    if (event.key === "Enter" && isAsking && words) skip(words);
  });

  function say(text) { notice.textContent = text; }

  function drawAspects() {
    question.hidden = !pair();
    const aspect = data.aspects.find((one) => one.id === focus);
    question.textContent = aspect ? aspect.question : "";
    question.classList.toggle("aspect", focus !== closing());
    detailButton.textContent = detail ? "Only the last question" : "Ask every aspect";
    detailButton.hidden = data.aspects.length < 2 || !pair();
    noteButton.hidden = !pair();
    undoButton.hidden = !history.length && !data.last;
    rows.replaceChildren(...data.aspects.slice(0, -1).map((one, index) => {
      const row = makeButton(one.id === focus ? "row focus" : "row", "", () => {
        focus = focus === one.id ? closing() : one.id;
        drawAspects();
      }, `Answer ${one.name} (${index + 1})`);
      row.append(make("kbd", "", String(index + 1)), make("span", "name", one.name),
        make("span", "choice", NAMES[chosen[one.id]] || "–"));
      row.classList.toggle("set", one.id in chosen);
      return row;
    }), detailButton, noteButton, undoButton);
  }

  function drawHints() {
    const keys = [
      ["← →", "better"], ["↓", "tie"], ["B", "both bad"], ["S", "skip"], ["Z", "undo"], ["N", "note"],
      ["space", "play"], [", .", "frame"], ["< >", "speed"], ["+ −", "zoom"], ["0", "restart"], ["L", "loop"],
    ];
    if (data.aspects.length > 1) keys.push([`1–${data.aspects.length - 1}`, "aspect"], ["D", "all"]);
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

  function preload() {
    const urls = queue.slice(1).flatMap((next) => [next.left.url, next.right.url]).filter(Boolean);
    for (const [url, video] of pool) {
      if (!urls.includes(url)) { video.removeAttribute("src"); video.load(); pool.delete(url); }
    }
    for (const url of urls) {
      if (pool.has(url)) continue;
      pool.set(url, makeVideo(url));
      pool.get(url).addEventListener("loadeddata", countLoaded);
    }
    countLoaded();
  }

  // How many of the next pairs could be shown at once.
  function countLoaded() {
    const isLoaded = (clip) => !clip.url || (pool.has(clip.url) && pool.get(clip.url).readyState >= 2);
    screen.dataset.loaded = queue.slice(1).filter((next) => isLoaded(next.left) && isLoaded(next.right)).length;
  }

  function minutes(seconds) {
    if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
    return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  function drawProgress() {
    const ahead = outbox.reduce((sum, action) => sum + ("undo" in action ? -1 : 1), 0);
    const count = Math.max(0, data.progress.done + ahead);
    const remaining = Math.max(0, data.progress.remaining - ahead);
    const total = count + remaining;
    barFill.style.width = total ? `${(100 * count) / total}%` : "0";
    const parts = total ? [`${count} of ${total}`] : [];
    if (data.progress.pace && remaining) parts.push(`about ${minutes(data.progress.pace * remaining)} left`);
    if (outbox.length > 1) parts.push(`${outbox.length} on their way`);
    status.replaceChildren(make("span", "", parts.join(" · ")), make("span", "who", data.annotator));
    screen.dataset.done = data.progress.done;
    screen.dataset.pending = outbox.length;
  }

  // Puts the first pair of the queue on the screen, unless it is there.
  function draw() {
    const next = pair();
    const isSame = onScreen && next && onScreen.lease === next.lease && onScreen.left.url === next.left.url
      && onScreen.right.url === next.right.url;
    screen.dataset.lease = next ? next.lease : "";
    const isWaiting = !next && outbox.length > 0;
    screen.classList.toggle("busy", isWaiting);
    screen.classList.toggle("finished", !next && !isWaiting);
    drawProgress();
    if (!isSame) {
      onScreen = next;
      chosen = {};
      focus = firstQuestion();
      note.value = "";
      note.hidden = true;
      ask(false);
      say("");
      shownAt = performance.now();
      hiddenAt = document.hidden ? shownAt : null;
      prompt.textContent = next ? next.prompt || "(no prompt)" : "";
      prompt.classList.toggle("long", prompt.textContent.length > LONG_PROMPT);
      prompt.tabIndex = prompt.scrollHeight > prompt.clientHeight ? 0 : -1;  // the keyboard must reach its end, too
      prompt.scrollTop = 0;
      player.show(next ? [next.left, next.right] : [], take);
    }
    if (!next) drawDone(isWaiting);
    drawAspects();
    preload();
  }

  function drawDone(isWaiting) {
    switchedAt = null;
    if (isWaiting) { done.replaceChildren(); return; }
    const count = data.progress.done;
    const [mark, title, text] = data.empty
      ? ["…", "No pairs yet.", "An admin adds them on the page Project; they appear here by themselves."]
      : count
        ? ["✓", "That was the last one. Thank you!",
          `You judged ${count} ${count === 1 ? "pair" : "pairs"}. Undo (Z) goes back to the last one.`]
        : ["✓", "Nothing to label here.",
          "Every pair has its votes, or is on somebody else's screen. What becomes free appears here by itself."];
    done.replaceChildren(make("div", "tick", mark), make("h1", "", title), make("p", "", text));
  }

  // How long the eye waited for both videos, for the browser test.
  function drawn(state) {
    if (switchedAt === null || !state.ready) return;
    screen.dataset.waited = (performance.now() - switchedAt).toFixed(1);
    switchedAt = null;
  }

  function receive(newest) {
    data = newest;
    outbox = outbox.filter((action) => action.id > data.acknowledged);
    if (outbox.length) {  // the server does not know all yet: keep our order, take what is new
      const known = new Set([...queue.map((one) => one.lease), ...outbox.map((action) => action.lease)]);
      queue = [...queue, ...data.queue.filter((one) => !known.has(one.lease))];
      data.last = null;
    } else {
      queue = data.queue;
      history = history.filter((one) => !queue.some((other) => other.lease === one.lease));
    }
    drawHints();
    draw();
    if (data.notice) say(data.notice);
    flush();
  }

  function key(event) {
    if (!data || isTaken(event)) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const once = (action) => { event.preventDefault(); if (!event.repeat) action(); };
    const digit = /^[1-9]$/.test(name) ? Number(name) : 0;
    if (name === "Escape") {
      ask(false);
      focus = closing();
      drawAspects();
    } else if (name === "s") {
      once(() => ask(!isAsking));
    } else if (name === "n") {
      once(write);
    } else if (isAsking && digit) {
      if (digit <= data.reasons.length) once(() => skip(data.reasons[digit - 1]));
    } else if (name in ANSWER_KEYS) {
      once(() => { if (isAsking) ask(false); else give(ANSWER_KEYS[name]); });
    } else if (name === "z") {
      once(undo);
    } else if (name === "d") {
      once(() => setDetail(!detail));
    } else if (digit && digit < data.aspects.length && pair()) {
      focus = data.aspects[digit - 1].id;
      drawAspects();
    } else if (pair() && playerKey(event, player)) {
      event.preventDefault();
    }
  }

  // Who has nothing to label is shown what there is by now.
  function lookAgain() {
    if (data && !pair() && !document.hidden) flush(true);
  }

  // Time in another tab is not time spent on the pair.
  function visibility() {
    if (document.hidden) hiddenAt = performance.now();
    else if (hiddenAt !== null) { shownAt += performance.now() - hiddenAt; hiddenAt = null; }
    lookAgain();
  }

  document.addEventListener("keydown", key);
  document.addEventListener("visibilitychange", visibility);
  const looking = setInterval(lookAgain, LOOK_AGAIN_MILLISECONDS);
  return {
    receive(component) {
      address = component.data;
      if (data && component.data.time <= data.time) return;  // drawn again with what was true some answers ago
      receive(component.data);
    },
    close() {
      document.removeEventListener("keydown", key);
      document.removeEventListener("visibilitychange", visibility);
      clearInterval(looking);
      player.pause();
    },
  };
}

// Streamlit calls this again for every change of data, but its cleanup only once: bind once, keep the newest component.
export default function (component) {
  const root = component.parentElement;
  if (!root.soralign) root.soralign = createScreen(root);
  root.soralign.receive(component);
  return () => { root.soralign.close(); delete root.soralign; };
}
