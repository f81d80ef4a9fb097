// Marks a table that is wider than the screen, and the side where there is more of it.
for (const box of document.querySelectorAll(".scroll")) {
  const mark = () => {
    const hidden = box.scrollWidth - box.clientWidth;
    box.parentElement.classList.toggle("wide", hidden > 1);
    box.tabIndex = hidden > 1 ? 0 : -1; // scrolls with the arrow keys
    box.classList.toggle("more", hidden - box.scrollLeft > 1);
  };
  new ResizeObserver(mark).observe(box);
  box.addEventListener("scroll", mark);
}

for (const button of document.querySelectorAll("button.copy")) {
  const source = document.getElementById(button.getAttribute("aria-controls"));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected, now copy";
    }
  });
  button.addEventListener("blur", () => (button.textContent = "Copy"));
}

// Shows the values of a figure, from the table below it, at the guide next to the pointer or, with
// the arrow keys, at the guides in turn.
for (const plot of document.querySelectorAll(".plot")) {
  const guides = plot.querySelectorAll('[id*="-guide-"]');
  const table = plot.parentElement.querySelector("table");
  const legend = plot.querySelector('[id*="-legend_"]');
  const readout = plot.querySelector(".readout");
  let shown = -1;

  const middle = guide => {
    const { left, right } = guide.getBoundingClientRect();
    return (left + right) / 2;
  };
  const top = element => element.getBoundingClientRect().top;
  const show = index => {
    guides[shown]?.classList.remove("on");
    shown = index;
    readout.hidden = index < 0;
    if (index < 0) return;
    guides[index].classList.add("on");
    const cells = [...table.tBodies[0].rows[index].cells];
    readout.replaceChildren(...cells.flatMap((cell, column) => {
      const name = document.createElement("dt"), value = document.createElement("dd");
      name.append(...table.tHead.rows[0].cells[column].cloneNode(true).childNodes);
      value.textContent = cell.textContent;
      return value.textContent ? [name, value] : [];
    }));
    readout.style.top = `${top(legend) - top(plot)}px`;
  };
  const follow = event => {
    const distances = [...guides].map(guide => Math.abs(middle(guide) - event.clientX));
    show(distances.indexOf(Math.min(...distances)));
  };

  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerleave", () => show(-1));
  plot.addEventListener("blur", () => show(-1));
  plot.addEventListener("keydown", event => {
    const last = guides.length - 1;
    const next = { ArrowLeft: shown - 1, ArrowRight: shown + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") show(-1);
    if (next === undefined) return;
    event.preventDefault();
    show(Math.max(0, Math.min(next, last)));
  });
}
