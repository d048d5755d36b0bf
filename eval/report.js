// Pause, slow motion, frames and paths for all films at once; without it they loop by themselves.
const films = [...document.querySelectorAll("video")];
const button = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
let playing = !calm;
let visible = new Set(films);

function update() {
  for (const film of films) {
    if (playing && visible.has(film)) film.play().catch(() => {});
    else film.pause();
  }
  if (button("play")) button("play").textContent = playing ? "Pause" : "Play";
}

function toggled(id, act) {
  button(id)?.addEventListener("click", (event) => {
    const pressed = event.currentTarget.getAttribute("aria-pressed") !== "true";
    event.currentTarget.setAttribute("aria-pressed", String(pressed));
    act(pressed);
  });
}

button("play")?.addEventListener("click", () => { playing = !playing; update(); });
toggled("slow", (slow) => films.forEach((film) => { film.playbackRate = slow ? 0.25 : 1; }));
toggled("frames", (frames) => document.body.classList.toggle("as-frames", frames));
toggled("paths", (shown) => document.body.classList.toggle("no-paths", !shown));
if (!document.querySelector(".paths")) button("paths")?.remove();
document.querySelector(".controls")?.removeAttribute("hidden");
if ("IntersectionObserver" in window) {
  visible = new Set();
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) visible[entry.isIntersecting ? "add" : "delete"](entry.target);
    update();
  }, { rootMargin: "200px" });
  films.forEach((film) => watcher.observe(film));
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
update();
readPlots(document);
