"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  for (const hint of document.querySelectorAll("[data-script]")) hint.hidden = false;

  const dialog = byId("viewer");
  const large = document.createElement("img");
  for (const button of document.querySelectorAll("button.zoom")) {
    button.addEventListener("click", () => {
      const picture = button.querySelector("img");
      large.src = picture.src;
      large.alt = picture.alt;
      large.className = picture.className;
      byId("viewer-title").textContent = button.dataset.title;
      dialog.classList.remove("closer");
      dialog.showModal();
    });
  }
  if (dialog) {
    byId("viewer-frame").append(large);
    large.addEventListener("click", () => dialog.classList.toggle("closer"));
    byId("viewer-close").addEventListener("click", () => dialog.close());
  }

  const stack = byId("stack");
  if (stack) {
    const layers = ["below", "above"].map((layer) => {
      const picture = byId("picture-" + stack.dataset[layer]).cloneNode();
      picture.removeAttribute("id");
      stack.append(picture);
      return picture;
    });
    const slider = byId("opacity");
    const show = () => {
      layers[1].style.opacity = slider.value / 100;
      byId("opacity-value").textContent = slider.value + " %";
    };
    slider.addEventListener("input", show);
    show();
  }
})();
