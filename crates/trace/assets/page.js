// Theme, copying and printing. The page reads in full without any of it.
(() => {
  "use strict";
  const root = document.documentElement;
  const memory = {
    // A file:// page may have no storage.
    get() { try { return localStorage.getItem("theme"); } catch { return null; } },
    set(theme) { try { localStorage.setItem("theme", theme); } catch { /* this visit only */ } },
  };
  const toggle = document.querySelector("[data-theme-toggle]");
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { toggle.textContent = dark() ? "Light theme" : "Dark theme"; };
  const remembered = memory.get();
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;
  label();
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    memory.set(root.dataset.theme);
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);

  const said = document.querySelector("[data-said]");
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const text = button.parentElement.querySelector("code").textContent;
      const copied = await navigator.clipboard.writeText(text).then(() => true, () => false);
      button.textContent = copied ? "Copied" : "Select it by hand";
      said.textContent = copied ? "Command copied" : "The browser refused to copy";
      setTimeout(() => { button.textContent = "Copy"; said.textContent = ""; }, 2000);
    });
  }

  // A link to a layer opens it, and paper shows everything.
  const open = () => { document.getElementById(location.hash.slice(1))?.querySelector("details")?.setAttribute("open", ""); };
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("details")) details.open = true;
  });
})();
