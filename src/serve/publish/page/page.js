"use strict";
// The page is complete without this script. It copies commands, and asks for the page anew and puts in what changed, block
// by block, so that what somebody reads, has opened or has in focus stays where it is.
(() => {
  const root = document.documentElement, byId = (id) => document.getElementById(id);
  root.classList.add("js");
  const say = (text) => { byId("say").textContent = text; };

  const written = async (text, node) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Browsers have a clipboard for HTTPS and loopback only; elsewhere the selection is copied.
      const range = document.createRange();
      range.selectNodeContents(node);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      try { return document.execCommand("copy"); } catch { return false; }
    }
  };
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    const source = button && byId(button.dataset.copy);
    if (!source) return;
    const done = await written(source.textContent, source);
    const label = button.firstChild;
    label.data = done ? "Copied" : "Selected";
    say(done ? "Copied." : "The command is selected; copy it with the keyboard.");
    setTimeout(() => { label.data = "Copy"; }, 2000);
  });

  const body = document.body;
  if (!body.dataset.live) return;
  const EVERY = 5000, SLOWEST = 30000, PATIENCE = 15000;
  const build = (doc) => doc.querySelector("meta[name=generator]")?.content;
  const words = (doc) => [doc.querySelector("h1"), doc.getElementById("counts")].map((e) => e?.textContent).join(". ");
  const parts = (doc) => [...doc.querySelectorAll("[data-part]")];
  const sent = new Map(parts(document).map((part) => [part.id, part.outerHTML]));
  let etag = null, failures = 0, timer = 0, busy = false;

  // What is there goes on standing when the server sent the same, or while somebody is selecting text in it.
  const kept = (part) => {
    const old = byId(part.id), html = part.outerHTML;
    if (old) {
      const selection = getSelection();
      if (sent.get(part.id) === html || (!selection.isCollapsed && selection.containsNode(old, true))) return old;
    }
    sent.set(part.id, html);
    const fresh = document.importNode(part, true);
    // Opened or closed by hand stays so as long as the verdict is the same.
    if (old && old.tagName === "DETAILS" && old.className === fresh.className) fresh.open = old.open;
    return fresh;
  };
  const update = (doc) => {
    const focus = document.activeElement?.id;
    if (words(doc) !== words(document)) say(words(doc));
    for (const part of parts(doc)) {
      if (part.parentElement.id === "list") continue;
      const old = byId(part.id), node = kept(part);
      if (old && old !== node) old.replaceWith(node);
    }
    const list = byId("list"), wanted = [...doc.getElementById("list").children].map(kept);
    if (wanted.length !== list.children.length || wanted.some((node, at) => node !== list.children[at])) {
      list.replaceChildren(...wanted);
    }
    for (const id of sent.keys()) if (!byId(id)) sent.delete(id);
    if (document.title !== doc.title) document.title = doc.title;
    const icon = document.querySelector("link[rel=icon]"), now = doc.querySelector("link[rel=icon]");
    if (icon.href !== now.href) icon.href = now.href;
    if (focus && document.activeElement?.id !== focus) byId(focus)?.focus({ preventScroll: true });
  };
  const note = (text) => {
    const place = byId("live");
    if (place.textContent === text) return;
    place.textContent = text;
    place.hidden = !text;
    if (text) say(text);
  };
  const asOf = () => byId("as-of").dateTime;
  const clock = () => asOf().replace("T", " ").replace("Z", " UTC");

  const ask = async () => {
    if (busy) return;
    busy = true;
    clearTimeout(timer);
    try {
      const headers = etag ? { "If-None-Match": etag } : {};
      const answer = await fetch(location.pathname, { headers, cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (answer.status !== 304) {
        if (!answer.ok) throw new Error(answer.status);
        const doc = new DOMParser().parseFromString(await answer.text(), "text/html");
        // Another version answers: its page comes with its own style and script.
        if (build(doc) !== build(document)) return location.reload();
        update(doc);
        etag = answer.headers.get("ETag");
      }
      if (failures) say("Connected again.");
      failures = 0;
      const age = (Date.parse(answer.headers.get("Date")) - Date.parse(asOf())) / 1000;
      note(age > body.dataset.staleAfter ? `The exporter answers, but its readings stand still: stale since ${clock()}.` : "");
    } catch {
      failures += 1;
      note(`Connection lost: stale since ${clock()}. Trying again.`);
    }
    busy = false;
    if (!document.hidden) timer = setTimeout(ask, Math.min(EVERY * 2 ** Math.min(failures, 3), SLOWEST) * (0.9 + Math.random() / 5));
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  timer = setTimeout(ask, EVERY);
})();
