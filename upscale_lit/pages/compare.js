"use strict";

// Two versions of a picture, one on each side of a line that a slider moves. Both are in one scrolling view, so that
// they stay aligned at every zoom. templates/compare.html has the markup.
class ComparePictures extends HTMLElement {
  connectedCallback() {
    const find = (name) => this.querySelector(name);
    this.view = find(".view");
    this.stage = find(".stage");
    this.slider = find(".slider");
    this.dataset.zoom = "fit";
    this.slider.addEventListener("input", () => this.draw());
    this.view.addEventListener("scroll", () => this.draw());
    this.addEventListener("change", (event) => event.target.dataset.side && this.draw());
    for (const button of this.querySelectorAll("[data-zoom]"))
      button.addEventListener("click", () => this.setZoom(button));
    this.followPointer(find(".frame"), find(".line"));
    this.observer = new ResizeObserver(() => this.draw());
    this.observer.observe(this);
    this.draw();
  }

  disconnectedCallback() {
    this.observer.disconnect();
  }

  // The images on the left and on the right.
  sides() {
    const images = [...this.querySelectorAll("img")];
    const shown = images.filter((image) => !image.hidden);
    return ["left", "right"].map((side, number) => {
      const choice = this.querySelector(`[data-side="${side}"]`);
      return choice ? images[choice.selectedIndex] : images.length === 1 ? images[0] : shown[number];
    });
  }

  draw() {
    const { view, stage, slider } = this, { zoom } = this.dataset;
    const width = Number(stage.dataset.width), height = Number(stage.dataset.height);
    // At 100 %, a pixel of the picture is a pixel of the screen. Nothing is enlarged to fit.
    const whole = width / devicePixelRatio;
    const fitting = Math.max(Math.min(whole, this.clientWidth, (0.85 * innerHeight * width) / height), 1);
    const wide = zoom === "fit" ? fitting : Number(zoom) * whole;
    stage.style.width = `${wide}px`;
    stage.style.height = `${(wide * height) / width}px`;
    const frame = Math.min(wide, this.clientWidth);
    view.style.width = `${frame}px`;
    slider.style.width = `max(${frame}px, 12rem)`;
    this.querySelector(".bar").style.maxWidth = `max(${frame}px, 40rem)`;
    const place = (slider.value / 100) * frame;
    const cut = Math.min(Math.max(view.scrollLeft + place, 0), wide);
    const [left, right] = this.sides();
    for (const image of this.querySelectorAll("img")) {
      image.hidden = image !== left && image !== right;
      // A picture that is smaller than its place, such as an input, shows its pixels, and so do all at 400 %.
      image.style.imageRendering = zoom === "4" || image.naturalWidth < width ? "pixelated" : "auto";
    }
    left.style.clipPath = `inset(0 ${wide - cut}px 0 0)`;
    if (right !== left) right.style.clipPath = `inset(0 0 0 ${cut}px)`;
    else left.style.clipPath = "none";
    this.querySelector(".line").style.left = `${place}px`;
    const part = Math.round((100 * cut) / wide);
    slider.setAttribute("aria-valuetext", `${part} % ${left.dataset.name}, ${100 - part} % ${right.dataset.name}`);
  }

  setZoom(button) {
    // The pixel in the middle of the view stays there.
    const { view, stage } = this;
    const x = (view.scrollLeft + view.clientWidth / 2) / stage.clientWidth;
    const y = (view.scrollTop + view.clientHeight / 2) / stage.clientHeight;
    this.dataset.zoom = button.dataset.zoom;
    for (const each of this.querySelectorAll("[data-zoom]")) each.setAttribute("aria-pressed", each === button);
    this.draw();
    view.scrollTo(x * stage.clientWidth - view.clientWidth / 2, y * stage.clientHeight - view.clientHeight / 2);
    this.draw();
  }

  // A pointer drags the line, and in a picture that fits, any place moves the line. A zoomed picture scrolls elsewhere.
  followPointer(frame, line) {
    const move = (event) => {
      const box = this.view.getBoundingClientRect();
      this.slider.value = (100 * (event.clientX - box.left)) / box.width;
      this.draw();
    };
    frame.addEventListener("pointerdown", (event) => {
      if (event.button || (event.target !== line && this.dataset.zoom !== "fit")) return;
      frame.setPointerCapture(event.pointerId);
      this.slider.focus({ preventScroll: true, focusVisible: false });
      event.preventDefault();
      move(event);
    });
    frame.addEventListener("pointermove", (event) => {
      if (frame.hasPointerCapture(event.pointerId)) move(event);
    });
  }
}

// Image grids of a run, one for each validation. A slider chooses the step.
class StepGrids extends HTMLElement {
  connectedCallback() {
    const slider = this.querySelector(".slider"), image = this.querySelector("img");
    const steps = [...this.querySelectorAll("[data-step]")];
    const draw = () => {
      const { source, name } = steps[Number(slider.value)].dataset;
      image.src = source;
      image.alt = `Image grid: ${name}`;
      this.querySelector("output").textContent = name;
      slider.setAttribute("aria-valuetext", name);
    };
    slider.addEventListener("input", draw);
    draw();
  }
}

customElements.define("compare-pictures", ComparePictures);
customElements.define("step-grids", StepGrids);
