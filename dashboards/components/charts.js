// Drawings made by the server, with the numbers of their lines under the pointer and the arrow keys.
export default function ({ data, parentElement }) {
  if (parentElement.soralign === data.markup) return;
  parentElement.soralign = data.markup;
  parentElement.querySelector(".charts")?.remove();
  const box = document.createElement("div");
  box.className = "charts";
  box.innerHTML = data.markup;
  parentElement.append(box);
  readPlots(box);
}
