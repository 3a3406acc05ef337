/** Copies text, also where the browser offers no clipboard because the address is not secure (HTTP on a network). */

/**
 * @param select selects the text in the page: the older way copies what is selected, and if that fails too, the user can
 * @returns whether the text is in the clipboard
 */
export async function copyText(text: string, select: () => void): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    select();
    return document.execCommand("copy");
  }
}
