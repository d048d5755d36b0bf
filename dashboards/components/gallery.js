// Pairs of videos side by side, every pair in step, all pairs driven by one bar.

// The paths of objects over a panel: {width, height, objects: [{radius, position: [[x, y] or null, ...]}]}, pixels of the
// video. Returns what to call with the number of the frame that is shown.
function drawTracks(panel, tracks) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("class", "tracks");
  svg.setAttribute("viewBox", `0 0 ${tracks.width} ${tracks.height}`);
  svg.setAttribute("aria-hidden", "true");
  const thin = tracks.height / 160;
  const rings = tracks.objects.map((object) => {
    let line = "";
    let pen = "M";
    for (const at of object.position) {
      if (at) { line += `${pen}${at[0]} ${at[1]}`; pen = "L"; } else pen = "M";
    }
    for (const [kind, width] of [["under", 2.2 * thin], ["path", thin]]) {
      const path = document.createElementNS(namespace, "path");
      path.setAttribute("class", kind);
      path.setAttribute("d", line);
      path.setAttribute("stroke-width", width);
      svg.append(path);
    }
    const ring = document.createElementNS(namespace, "circle");
    ring.setAttribute("r", object.radius || 3);
    ring.setAttribute("stroke-width", thin);
    svg.append(ring);
    return ring;
  });
  panel.append(svg);
  return (frame) => tracks.objects.forEach((object, index) => {
    const at = object.position[frame];
    rings[index].style.display = at ? "" : "none";
    if (at) { rings[index].setAttribute("cx", at[0]); rings[index].setAttribute("cy", at[1]); }
  });
}

function createGallery(root) {
  const gallery = make("div", "gallery");
  root.append(gallery);
  let players = [];
  let cards = "";
  let playing = true;
  const visible = new Set();  // only what can be seen plays
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const player = players[Number(target.dataset.index)];
      if (isIntersecting) visible.add(player); else visible.delete(player);
      if (player.state.playing !== (playing && isIntersecting)) player.toggle();
    }
  });
  const all = {
    toggle: () => {
      playing = !visible.size || ![...visible].some((player) => player.state.playing);
      each((player) => (playing && visible.has(player) ? player.play() : player.pause()));
    },
    restart: () => { playing = true; each((player) => (visible.has(player) ? player.restart() : player.seekFrame(0))); },
    step: (count) => { playing = false; each((player) => player.step(count)); },
    faster: (by) => each((player) => player.faster(by)),
    closer: (by) => each((player) => player.closer(by)),
    loop: () => each((player) => player.loop()),
    seekFrame: (frame) => {
      playing = false;
      each((player) => player.seekFrame(Math.min(frame, player.state.frames - 1)));
    },
  };
  const each = (action) => players.forEach(action);
  const { bar, update } = createControls(() => all);
  const grid = make("div", "grid");
  gallery.append(bar, grid);

  function show(data) {
    const wanted = JSON.stringify(data.cards);
    if (wanted === cards) return;
    cards = wanted;
    each((player) => player.show([], makeVideo));
    players = [];
    visible.clear();
    seen.disconnect();
    playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    grid.replaceChildren(...data.cards.map((card) => {
      const box = make("article", "card");
      const stage = make("div", "stage");
      stage.style.gridTemplateColumns = `repeat(${card.clips.length}, 1fr)`;
      box.append(make("h3", "prompt", card.prompt || "(no prompt)"), stage);
      const captions = make("div", "captions");
      captions.style.gridTemplateColumns = stage.style.gridTemplateColumns;
      captions.append(...card.clips.map((clip) => {
        const caption = make("div", "caption");
        caption.append(make("strong", "", clip.name), make("span", "facts", clip.facts || ""));
        return caption;
      }));
      box.append(captions);
      if (card.facts) box.append(make("div", "about", card.facts));
      const index = players.length;
      box.dataset.index = index;
      const marks = [];
      const player = createPlayer(stage, (state) => {
        if (index === 0) update(state);
        for (const move of marks) move(state.frame);
      });
      players.push(player);
      player.show(card.clips, makeVideo, false);
      card.clips.forEach((clip, place) => { if (clip.tracks) marks.push(drawTracks(stage.children[place], clip.tracks)); });
      return box;
    }));
    for (const box of grid.children) seen.observe(box);
    const widest = Math.max(1, ...data.cards.map((card) => card.clips.length));
    grid.style.setProperty("--card", `${Math.min(9 + 7 * widest, 44)}rem`);
    gallery.dataset.cards = data.cards.length;
  }

  function key(event) {
    if (!isTaken(event) && event.key.toLowerCase() === "t") gallery.classList.toggle("plain");
    if (!isTaken(event) && players.length && playerKey(event, all)) event.preventDefault();
  }
  document.addEventListener("keydown", key);
  return {
    receive: (component) => show(component.data),
    close: () => { document.removeEventListener("keydown", key); seen.disconnect(); each((player) => player.pause()); },
  };
}

export default function (component) {
  const root = component.parentElement;
  if (!root.soralign) root.soralign = createGallery(root);
  root.soralign.receive(component);
  return () => { root.soralign.close(); delete root.soralign; };
}
