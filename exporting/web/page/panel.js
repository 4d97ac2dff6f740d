"use strict";
// The sliders and buttons beside the picture.

function element(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** Whether training never saw this expression move: the mesh moves, but nothing was learnt. */
function isUnseen(control) {
  return control.seen !== undefined && control.seen[0] === control.seen[1];
}

class Panel {
  constructor(player, root) {
    this.player = player;
    this.rows = player.controls.map((control) => this.createRow(control));
    this.groups = [];
    const names = [...new Set(player.controls.map(({ group }) => group))];
    names.forEach((name, i) => {
      const rows = this.rows.filter(({ control }) => control.group === name)
        .sort((a, b) => isUnseen(a.control) - isUnseen(b.control));
      const details = element("details", { open: i === 0 || name === GROUPS.mouth }, [
        element("summary", {}, [name, element("span", { className: "count", textContent: rows.length })]),
        ...rows.map(({ node }) => node),
      ]);
      details.addEventListener("toggle", () => this.refresh());
      this.groups.push({ details, rows });
      root.append(details);
    });
    this.refresh();
  }

  createRow(control) {
    const input = element("input", { type: "range", id: `control-${control.id}`, min: control.min, max: control.max,
                                     step: control.step, value: 0 });
    const value = element("output", { htmlFor: input.id });
    const label = element("label", { htmlFor: input.id, textContent: control.label });
    if (isUnseen(control)) {
      const title = "never moved in the training clip: mesh motion only";
      label.append(element("small", { textContent: " unseen", title }));
    }
    input.addEventListener("input", () => this.player.setControl(control, Number(input.value)));
    input.addEventListener("dblclick", () => this.player.setControl(control, 0));
    return { control, input, value, node: element("div", { className: "row" }, [label, input, value]) };
  }

  /** Show the codes of the player; closed groups are left for when they open. */
  refresh() {
    for (const { details, rows } of this.groups) {
      if (!details.open) continue;
      for (const { control, input, value } of rows) {
        const number = control.get(this.player.codes);
        const text = `${number.toFixed(control.unit ? 0 : 2).replace(/^-(0(\.0+)?)$/, "$1")}${control.unit}`;
        if (value.textContent === text) continue;
        value.textContent = text;
        input.value = number;
        input.setAttribute("aria-valuetext", text);
      }
    }
  }
}
