// Several videos that move as one: play, pause, restart, frame step, speed, loop, zoom. Shared by both apps.
//
// The longest video leads; the others are pulled to it when they are more than half a frame off. A shorter one waits
// on its last frame. Text from outside is only ever set through textContent.

const SPEEDS = [0.25, 0.5, 1, 1.5, 2];
const ZOOMS = [1, 2, 3, 4, 6, 8];

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function makeButton(className, label, action, title) {
  const button = make("button", className, label);
  button.type = "button";
  if (title) { button.title = title; button.setAttribute("aria-label", title); }
  button.addEventListener("click", (event) => {
    action();
    if (event.detail > 0) button.blur();  // after a mouse click the keyboard belongs to the page again
  });
  return button;
}

// Drawn here, because a font without the glyph shows a box.
const ICONS = {
  play: "M4 2.5v11l9.5-5.5z", pause: "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z", start: "M3 2.5h2v11H3zM13.5 2.5v11L5.5 8z",
  back: "M10.5 3 5.5 8l5 5", on: "M5.5 3l5 5-5 5", minus: "M4 8h8", plus: "M4 8h8M8 4v8",
  loop: "M12.8 6A5.2 5.2 0 1 0 13 9.5M13 2.5V6H9.5",
};

function makeIcon(name, action, title) {
  const button = makeButton("icon", "", action, title);
  setIcon(button, name);
  return button;
}

function setIcon(button, name) {
  if (button.dataset.icon === name) return;
  button.dataset.icon = name;
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  if (!["play", "pause", "start"].includes(name)) svg.setAttribute("class", "stroked");
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  button.replaceChildren(svg);
}

function makeVideo(url) {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  video.preload = "auto";
  video.disablePictureInPicture = true;
  video.src = url;
  return video;
}

// stage: where the panels go. onChange(state) is called whenever something a control shows has changed.
function createPlayer(stage, onChange) {
  const state = { playing: false, speed: 1, loop: true, zoom: 1, frame: 0, frames: 1, ready: false, watched: 0 };
  let clips = [];
  let videos = [];
  let panels = [];
  let seen = [];  // per video the frames that were shown
  let timer = 0;

  const leader = () => videos.reduce((best, video) => (length(video) > length(best) ? video : best), videos[0]);
  const length = (video) => video.duration || 0;
  const fps = () => Math.max(1, ...clips.map((clip) => clip.fps));
  const over = (video) => video.ended || (length(video) > 0 && video.currentTime >= length(video) - 0.005);

  function changed() {
    const first = videos.length ? leader() : null;
    state.frames = Math.max(1, ...clips.map((clip) => clip.frames));
    state.frame = first ? Math.min(state.frames - 1, Math.floor(first.currentTime * fps() + 0.01)) : 0;
    state.ready = videos.length > 0 && videos.every((video) => video.readyState >= 2);
    state.time = first ? first.currentTime : 0;
    videos.forEach((video, index) => {
      if (video.readyState >= 2) seen[index].add(Math.floor(video.currentTime * clips[index].fps + 0.01));
    });
    state.watched = videos.length ? Math.min(...seen.map((frames, index) => frames.size / clips[index].frames)) : 0;
    onChange(state);
  }

  function tick() {
    if (!stage.isConnected) { pause(); return; }
    if (state.playing && videos.length) {
      const lead = leader();
      for (const video of videos) {
        if (video === lead) continue;
        const target = Math.min(lead.currentTime, length(video));
        if (Math.abs(video.currentTime - target) > 0.5 / fps() && !video.seeking && !lead.seeking) {
          video.currentTime = target;
        }
        if (video.paused && !over(video) && lead.currentTime < length(video)) video.play().catch(() => {});
      }
      if (over(lead) && videos.every(over)) {
        if (state.loop) restart(); else state.playing = false;
      }
    }
    changed();
    if (state.playing) timer = requestAnimationFrame(tick);
  }

  function play() {
    if (!videos.length) return;
    if (videos.every(over)) seek(0);
    state.playing = true;
    for (const video of videos) { video.playbackRate = state.speed; video.play().catch(() => {}); }
    cancelAnimationFrame(timer);
    timer = requestAnimationFrame(tick);
  }

  function pause() {
    state.playing = false;
    cancelAnimationFrame(timer);
    for (const video of videos) video.pause();
    if (videos.length > 1) {
      const lead = leader();
      for (const video of videos) if (video !== lead) video.currentTime = Math.min(lead.currentTime, length(video));
    }
    changed();
  }

  function seek(time) {
    for (const video of videos) {
      const target = Math.max(0, Math.min(time, length(video) || time));
      if (video.currentTime !== target) video.currentTime = target;  // even a seek to where it is drops decoded frames
    }
  }

  function restart() { seek(0); play(); }

  function step(count) {
    pause();
    const frame = Math.max(0, Math.min(state.frames - 1, state.frame + count));
    seek((frame + 0.5) / fps());  // the middle of a frame: its border may show either neighbour
  }

  function cycle(values, value, by) {
    const at = values.indexOf(value);
    return values[Math.max(0, Math.min(values.length - 1, at + by))];
  }

  function setSpeed(speed) {
    state.speed = speed;
    for (const video of videos) video.playbackRate = speed;
    changed();
  }

  function setZoom(zoom) {
    state.zoom = zoom;
    for (const panel of panels) panel.style.setProperty("--zoom", zoom);
    changed();
  }

  function pan(event, panel) {
    if (state.zoom === 1) return;
    const box = panel.getBoundingClientRect();
    const x = (100 * (event.clientX - box.left)) / box.width;
    const y = (100 * (event.clientY - box.top)) / box.height;
    for (const other of panels) other.style.setProperty("--at", `${x}% ${y}%`);
  }

  // items: [{url, width, height, fps, frames, alt, error}]; take(url) gives a video element, perhaps a preloaded one.
  function show(items, take, start = !matchMedia("(prefers-reduced-motion: reduce)").matches) {
    pause();
    for (const video of videos) {  // a browser allows some dozens of players per page; dropped ones count until emptied
      video.onerror = null;
      video.removeAttribute("src");
      video.load();
    }
    clips = items.filter((item) => !item.error);
    seen = clips.map(() => new Set());
    videos = [];
    panels = items.map((item) => {
      const panel = make("div", "panel");
      panel.style.setProperty("--zoom", state.zoom);
      panel.style.setProperty("--ratio", item.error ? 1 : item.width / item.height);
      if (item.error) {
        panel.append(make("p", "broken", item.error));
        return panel;
      }
      const video = take(item.url);
      video.setAttribute("aria-label", item.alt || "video");
      video.classList.toggle("small", item.width <= 320);
      video.onerror = () => panel.replaceChildren(make("p", "broken", "This video cannot be played."));
      video.onloadeddata = video.onseeked = changed;
      panel.append(video);
      panel.addEventListener("click", () => toggle());
      panel.addEventListener("pointermove", (event) => pan(event, panel));
      videos.push(video);
      return panel;
    });
    stage.replaceChildren(...panels);
    seek(0);
    if (start) play(); else changed();
  }

  function toggle() { if (state.playing) pause(); else play(); }

  return {
    state, show, play, pause, toggle, restart, step,
    faster: (by) => setSpeed(cycle(SPEEDS, state.speed, by)),
    closer: (by) => setZoom(cycle(ZOOMS, state.zoom, by)),
    loop: () => { state.loop = !state.loop; changed(); },
    seekFrame: (frame) => { pause(); seek((frame + 0.5) / fps()); },
  };
}

// Buttons and a timeline for one player. Returns the element and what to call when the player's state changes.
function createControls(player) {
  const bar = make("div", "controls");
  const playButton = makeIcon("play", () => player().toggle(), "Play or pause (space)");
  const line = make("input", "timeline");
  line.type = "range"; line.min = 0; line.value = 0; line.setAttribute("aria-label", "Frame");
  line.addEventListener("input", () => player().seekFrame(Number(line.value)));
  line.addEventListener("change", () => line.blur());
  const counter = make("span", "counter");
  const speed = make("span", "value");
  const zoom = make("span", "value");
  const loop = makeIcon("loop", () => player().loop(), "Loop (L)");
  const group = (...parts) => { const box = make("span", "group"); box.append(...parts); return box; };
  bar.append(
    makeIcon("start", () => player().restart(), "From the start (0)"),
    makeIcon("back", () => player().step(-1), "One frame back (,)"),
    playButton,
    makeIcon("on", () => player().step(1), "One frame on (.)"),
    line, counter,
    group(makeIcon("minus", () => player().faster(-1), "Slower (<)"), speed,
      makeIcon("plus", () => player().faster(1), "Faster (>)")),
    group(makeIcon("minus", () => player().closer(-1), "Zoom out (-)"), zoom,
      makeIcon("plus", () => player().closer(1), "Zoom in (+)")),
    loop,
  );
  function update(state) {
    setIcon(playButton, state.playing ? "pause" : "play");
    line.max = state.frames - 1;
    line.value = state.frame;
    counter.textContent = `${state.frame + 1} / ${state.frames}`;
    speed.textContent = `${state.speed}×`;
    zoom.textContent = state.zoom === 1 ? "fit" : `${state.zoom}×`;
    loop.classList.toggle("off", !state.loop);
    bar.dataset.playing = state.playing;
    bar.dataset.ready = state.ready;
  }
  return { bar, update };
}

// The player's part of the keyboard. Returns true when the key was one of its.
function playerKey(event, player) {
  const actions = {
    " ": () => player.toggle(), k: () => player.toggle(), "0": () => player.restart(), Home: () => player.restart(),
    ",": () => player.step(-1), ".": () => player.step(1), "<": () => player.faster(-1), ">": () => player.faster(1),
    "+": () => player.closer(1), "=": () => player.closer(1), "-": () => player.closer(-1), l: () => player.loop(),
  };
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!(key in actions) || (event.repeat && key !== "," && key !== ".")) return false;
  actions[key]();
  return true;
}

// Keys that are somebody else's: typed into a field, chords of the browser, Space on a focused button.
function isTaken(event) {
  const target = event.composedPath()[0];
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return true;
  if (!(target instanceof Element)) return false;
  if (target.closest("textarea, select, [contenteditable=''], [contenteditable='true'], [role='dialog']")) return true;
  if (target.matches("input")) return target.type !== "range" || event.key.startsWith("Arrow");
  return target.closest("button, a, summary") !== null && (event.key === " " || event.key === "Enter");
}
