// Copies a text where the page may, and by the old way where it was not loaded over a secure connection.

/** Resolves to whether it was copied. `page` is the window, for tests another one. */
export async function copyText(text, page = globalThis) {
  try {
    await page.navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text, page.document);
  }
}

function copySelected(text, document) {
  const before = document.activeElement;
  const field = Object.assign(document.createElement("textarea"), { value: text, readOnly: true });
  field.style.cssText = "position: fixed; top: 0; left: 0; opacity: 0";
  document.body.append(field);
  field.select();
  try {
    return document.execCommand("copy");
  } finally {
    field.remove();
    before?.focus?.();
  }
}
