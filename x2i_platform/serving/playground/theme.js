// Light or dark: the system's choice until the button is pressed, then the reader's. A classic script in the head, not
// a module, because it has to run before the first paint: a page that was made dark must not flash white.
(() => {
  const STORED = "x2i-theme";
  const root = document.documentElement;

  /** The reader's own choice, `light` or `dark`; null where there is none, or where the browser keeps nothing. */
  function chosen() {
    try {
      return localStorage.getItem(STORED);
    } catch {
      return null;
    }
  }

  function choose(theme) {
    root.dataset.theme = theme;
    try {
      localStorage.setItem(STORED, theme);
    } catch {
      // A browser that keeps nothing: the choice holds until the page is left.
    }
  }

  function isDark() {
    return (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  }

  if (["light", "dark"].includes(chosen())) root.dataset.theme = chosen();

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => button.setAttribute("aria-pressed", String(isDark()));
    label();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    button.addEventListener("click", () => {
      choose(isDark() ? "light" : "dark");
      label();
    });
  });
})();
