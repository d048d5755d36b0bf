// Pairs of videos side by side, every pair in step, all pairs driven by one bar.

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
      const player = createPlayer(stage, (state) => { if (index === 0) update(state); });
      players.push(player);
      player.show(card.clips, makeVideo, false);
      return box;
    }));
    for (const box of grid.children) seen.observe(box);
    gallery.dataset.cards = data.cards.length;
  }

  function key(event) {
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
