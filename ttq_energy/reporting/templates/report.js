"use strict";
(() => {
  // -- light and dark -----------------------------------------------------------------------------
  const root = document.documentElement;
  const asked = new URLSearchParams(location.search).get("theme");
  const stored = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = asked || stored;
  const applyTheme = () => { root.dataset.theme = chosen || (system.matches ? "dark" : "light"); };
  applyTheme();
  system.addEventListener("change", applyTheme);
  document.getElementById("theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", chosen); } catch { /* a file:// page may not store */ }
    applyTheme();
  });
  if (matchMedia("(max-width: 860px)").matches) {
    document.querySelector("nav details").open = false;
  }

  // -- tables that sort ---------------------------------------------------------------------------
  const compare = (a, b) => {
    const x = Number(a), y = Number(b);
    if (a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, "en", { numeric: true });
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const column = head.cellIndex;
      const body = head.closest("table").tBodies[0];
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.key;
      const rows = [...body.rows].sort((a, b) => {
        const x = key(a), y = key(b);
        if ((x === "") !== (y === "")) return x === "" ? 1 : -1; // what is not known comes last
        return falling ? compare(y, x) : compare(x, y);
      });
      body.append(...rows);
    });
  }

  // -- values when pointed at ---------------------------------------------------------------------
  const tip = document.getElementById("tip");
  const showTip = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(innerWidth - box.width - 4, x + 12))}px`;
    tip.style.top = `${y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18}px`;
  };
  const hideTip = () => { tip.hidden = true; };
  const shown = (canvas) => [...canvas.querySelectorAll("svg")].find((s) => s.clientWidth > 0);

  // -- plots that zoom ----------------------------------------------------------------------------
  for (const canvas of document.querySelectorAll(".canvas")) {
    const states = new Map();
    let current = -1;
    const state = () => {
      const svg = shown(canvas);
      if (!states.has(svg)) {
        const [x, y, w, h] = svg.getAttribute("viewBox").split(" ").map(Number);
        states.set(svg, { svg, home: { x, y, w, h }, view: { x, y, w, h } });
      }
      return states.get(svg);
    };
    const draw = ({ svg, home, view }) => {
      view.w = Math.min(home.w, Math.max(home.w / 16, view.w));
      view.h = view.w * home.h / home.w;
      view.x = Math.min(home.x + home.w - view.w, Math.max(home.x, view.x));
      view.y = Math.min(home.y + home.h - view.h, Math.max(home.y, view.y));
      svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
      canvas.classList.toggle("zoomed", view.w < home.w);
    };
    const zoom = (factor, fx = 0.5, fy = 0.5) => {
      const s = state(), { view } = s;
      const w = Math.min(s.home.w, Math.max(s.home.w / 16, view.w * factor));
      view.x += (view.w - w) * fx;
      view.y += (view.h - w * s.home.h / s.home.w) * fy;
      view.w = w;
      draw(s);
    };
    const reset = () => { const s = state(); s.view = { ...s.home }; draw(s); };
    const place = (event) => {
      const box = shown(canvas).getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    for (const button of canvas.closest("figure").querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => {
        const action = button.dataset.zoom;
        if (action === "reset") reset(); else zoom(action === "in" ? 1 / 1.5 : 1.5);
      });
    }
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls as everywhere
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1 / 1.2 : 1.2, ...place(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => zoom(1 / 2, ...place(event)));

    const fingers = new Map();
    let apart = 0;
    canvas.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, event);
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        apart = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
      }
    });
    canvas.addEventListener("pointermove", (event) => {
      const mark = event.target.closest("[data-note]");
      if (mark) showTip(mark.dataset.note, event.clientX, event.clientY); else hideTip();
      const before = fingers.get(event.pointerId);
      if (!before) return;
      fingers.set(event.pointerId, event);
      const s = state();
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        const now = Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
        if (apart > 0 && now > 0) zoom(apart / now, ...place(event));
        apart = now;
      } else if (s.view.w < s.home.w) {
        const box = s.svg.getBoundingClientRect();
        s.view.x -= (event.clientX - before.clientX) * s.view.w / box.width;
        s.view.y -= (event.clientY - before.clientY) * s.view.h / box.height;
        draw(s);
      }
    });
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
      canvas.addEventListener(name, (event) => {
        fingers.delete(event.pointerId);
        if (name === "pointerleave") hideTip();
      });
    }
    canvas.addEventListener("click", (event) => {
      const mark = event.target.closest("[data-note]");
      if (mark) showTip(mark.dataset.note, event.clientX, event.clientY);
    });

    // Keyboard: + and - zoom, 0 shows all, arrows pan a zoomed plot and else step through values.
    const step = (by) => {
      const marks = [...shown(canvas).querySelectorAll("[data-note]")];
      if (!marks.length) return;
      marks[current]?.classList.remove("current");
      current = (current + by + marks.length) % marks.length;
      const mark = marks[current];
      mark.classList.add("current");
      const box = mark.getBoundingClientRect();
      showTip(mark.dataset.note, box.left + box.width / 2, box.top + box.height / 2);
    };
    canvas.addEventListener("keydown", (event) => {
      const s = state();
      const zoomed = s.view.w < s.home.w;
      const pan = (dx, dy) => { s.view.x += dx * s.view.w / 8; s.view.y += dy * s.view.h / 8; draw(s); };
      const actions = {
        "+": () => zoom(1 / 1.5), "=": () => zoom(1 / 1.5), "-": () => zoom(1.5), "0": reset,
        ArrowRight: () => (zoomed ? pan(1, 0) : step(1)),
        ArrowLeft: () => (zoomed ? pan(-1, 0) : step(-1)),
        ArrowUp: zoomed ? () => pan(0, -1) : null,
        ArrowDown: zoomed ? () => pan(0, 1) : null,
        Escape: () => { hideTip(); reset(); },
      };
      const action = actions[event.key];
      if (action) { event.preventDefault(); action(); }
    });
    canvas.addEventListener("blur", () => {
      hideTip();
      for (const mark of canvas.querySelectorAll(".current")) mark.classList.remove("current");
    });
  }
})();
