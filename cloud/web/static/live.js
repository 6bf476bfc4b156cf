// Keeps a page honest about its age: asks for changes only while somebody looks, and says how old the page is.
(() => {
  "use strict";
  const SILENT_S = 10;
  const mark = document.querySelector("[data-live]");
  const main = document.getElementById("main");
  if (!mark || !main || !main.hasAttribute("hx-get")) return;
  const word = mark.querySelector("[data-live-word]");
  let heard = Date.now();
  let tag = "";

  const show = () => {
    const age = Math.round((Date.now() - heard) / 1000);
    const silent = age > SILENT_S;
    mark.classList.toggle("silent", silent);
    const said = silent ? `no answer for ${age} s` : `live, ${age} s ago`;
    if (word.textContent !== said) word.textContent = said;
  };

  document.addEventListener("htmx:config:request", (event) => {
    if (document.hidden) {
      event.preventDefault();
      return;
    }
    if (tag) event.detail.ctx.request.headers["If-None-Match"] = tag;
  });
  document.addEventListener("htmx:before:response", (event) => {
    const { status, headers } = event.detail.ctx.response;
    if (status !== 200 && status !== 304) return;
    heard = Date.now();
    tag = headers.get("ETag") || tag;
    show();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) main.dispatchEvent(new CustomEvent("wake"));
  });
  setInterval(() => document.hidden || show(), 1000);
  show();
})();
