/** Elements by id, and new ones. Text of users and of the service only ever enters the page as text, never as HTML. */

/**
 * The element with an id.
 * @param {string} id
 * @throws {Error} if the page has none, which is a mistake of the page.
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element '${id}'`);
  return found;
}

/**
 * A new element.
 * @param {string} tag
 * @param {Object} properties set as they are, such as `className` or `textContent`
 * @param {...Node} children
 */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** An icon of the page: one of the symbols at the end of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}
