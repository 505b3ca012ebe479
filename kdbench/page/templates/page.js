// Adds sorting, filters and details to a page that is whole without it.
(() => {
const all = what => [...document.querySelectorAll(what)], one = what => all(what)[0];
const add = (parent, name, textContent, rest) => parent.appendChild(
  Object.assign(document.createElement(name), { textContent, ...rest }));
const body = one("#all tbody"), rows = [...body.rows], find = one("#find"), chips = all(".chip");
const heads = all("#all thead th"), names = heads.map(head => head.textContent);
const numbers = heads.filter(head => head.className), settings = body.dataset.s.split(" ");

// What is shown is said in the address, so that a view can be handed on.
let state;
const get = name => state.get(name) || "", off = () => new Set(get("hide").split(" "));
const read = () => {
  const hash = location.hash.slice(1);
  if (state && !/=/.test(hash)) return;
  state = new URLSearchParams(hash);
  show();
};
const go = to => {
  for (const name in to) state.set(name, to[name]);
  history.replaceState(0, 0, "#" + state);
  show();
};
const value = (row, at) => {
  const exact = row.dataset.v.split(" ")[numbers.indexOf(heads[at])];
  return exact ? +exact : exact == null ? row.cells[at].textContent : null;
};
const show = () => {
  all(".detail").forEach(line => toggle(line.previousSibling));
  const gone = off(), s = get("s"), q = get("q"), at = names.indexOf(get("sort")), down = get("down");
  find.value = q;
  chips.forEach(chip => chip.ariaPressed = !gone.has(chip.dataset.v));
  heads.forEach((head, n) => head.ariaSort = n !== at ? "none" : down ? "descending" : "ascending");
  let count = 0;
  rows.forEach((row, n) => count += !(row.hidden = s && s !== settings[n] ||
    gone.has(row.querySelector("[class^=m-]").className) || !row.textContent.toLowerCase().includes(q.toLowerCase())));
  // What was not measured comes last, in both directions.
  body.append(...at < 0 ? rows : [...rows].sort((a, b) => {
    const x = value(a, at), y = value(b, at);
    return (x == null) - (y == null) || ((x > y) - (x < y)) * (down ? -1 : 1);
  }));
  one("#reset").hidden = count === rows.length;
  one("#count").textContent = `${count} of ${rows.length}`;
};

// Every column of a cell is in the file that the page carries.
const unpack = text => new Response(new Blob([Uint8Array.from(atob(text), c => c.charCodeAt())])
  .stream().pipeThrough(new DecompressionStream("gzip"))).text();
const load = async () => {
  const lines = [[]], text = await unpack(one("#file").href.split(",")[1]);
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\n]*))(,|\n|$)/g)) {
    lines.at(-1).push(quoted?.replaceAll('""', '"') ?? plain);
    if (end === "\n") lines.push([]);
  }
  return [lines, JSON.parse(await unpack(one("#columns").textContent))];
};
let file;
const toggle = async row => {
  const more = row.cells[0].firstChild, opens = more.ariaExpanded === "false";
  more.ariaExpanded = opens;
  if (!opens) return row.nextSibling.remove();
  const line = add(body, "tr", "", { className: "detail" });
  const list = add(add(line, "td", "", { colSpan: heads.length }), "dl");
  row.after(line);
  const [lines, about] = await (file ??= load());
  lines[0].forEach((name, at) => {
    const part = add(list, "div"), text = lines[rows.indexOf(row) + 1][at];
    add(part, "dt", name);
    add(part, "dd", text || "–");
    add(part, "dd", about[name] + (about[name + "=" + text] || ""));
  });
};

heads.forEach((head, at) => {
  const sort = names[at];
  head.textContent = "";
  add(head, "button", sort, { onclick: () => go({ sort, down: get("sort") === sort && !get("down") || "" }) });
  if (at) add(one("#shown"), "button", sort, { className: "chip", ariaPressed: true, onclick: ({ target }) => {
    const off = target.ariaPressed === "true";
    target.ariaPressed = !off;
    [head, ...rows.map(row => row.cells[at])].forEach(cell => cell.hidden = off);
  } });
});
if (one("#columns")) rows.forEach(row => row.cells[0].prepend(add(body, "button", "+", {
  className: "more", ariaExpanded: false, ariaLabel: "All columns", onclick: () => toggle(row)
})));
chips.forEach(chip => chip.onclick = () => {
  const gone = off();
  gone.delete(chip.dataset.v) || gone.add(chip.dataset.v);
  go({ hide: [...gone].join(" ") });
});
find.oninput = () => go({ q: find.value });
const only = s => go({ q: "", hide: "", s });
one("#reset").onclick = () => only("");
all('[href^="#n"]').forEach(link => link.onclick = event => {
  event.preventDefault();
  only(link.getAttribute("href").slice(2));
  one("#cells").scrollIntoView();
});
all(".copy").forEach(copy => {
  copy.hidden = 0;
  copy.onclick = () => {
    getSelection().selectAllChildren(copy.nextElementSibling);
    copy.textContent = document.execCommand("copy") ? "copied" : "Ctrl-C";
  };
});
// A box says so where it has more than it can show.
const sizes = new ResizeObserver(seen => seen.forEach(({ target }) => {
  const box = target.closest(".scroll");
  box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
}));
all(".scroll, .scroll > *").forEach(part => sizes.observe(part));
one(".controls").hidden = 0;
onbeforeprint = () => all("details").forEach(part => part.open = 1);
onhashchange = read;
read();
})();
