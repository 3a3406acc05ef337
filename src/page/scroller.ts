/** The scroll position: follows new messages at the end, and holds still while earlier ones are being read. */

import { find } from "./dom.ts";
import { words } from "./words.ts";

const NEAR_END_PX = 40;

export class Scroller {
  readonly #area = find("scroller", HTMLElement);
  readonly #newButton = find("new", HTMLButtonElement);
  readonly #onEnd: () => void;
  #isFollowing = true;
  #lastTop = 0;
  /** New messages below what is visible. */
  #newCount = 0;

  /**
   * @param onEnd is called when the end is visible
   * @param onScroll is called after each scroll event
   */
  constructor(onEnd: () => void, onScroll: (isNearEnd: boolean) => void) {
    this.#onEnd = onEnd;
    this.#area.onscroll = () => {
      const isNearEnd = this.#fromEnd - this.#area.clientHeight <= NEAR_END_PX;
      // Only a reader scrolls up; the end also moves away when messages arrive between two frames.
      if (isNearEnd) {
        this.#isFollowing = true;
        this.#newCount = 0;
        onEnd();
      } else if (this.#area.scrollTop < this.#lastTop) this.#isFollowing = false;
      this.#lastTop = this.#area.scrollTop;
      this.#showButton();
      onScroll(isNearEnd);
    };
    const observer = new ResizeObserver(() => this.#isFollowing && this.toEnd());
    observer.observe(this.#area);
    observer.observe(find("messages", HTMLElement));
    // Some on-screen keyboards cover the page instead of shrinking it.
    const { visualViewport } = window;
    visualViewport?.addEventListener("resize", () => {
      const height = `${visualViewport.height * visualViewport.scale}px`;
      document.documentElement.style.setProperty("--height", height);
    });
  }

  get isFollowing(): boolean {
    return this.#isFollowing;
  }

  /** Pixels above what is visible. */
  get top(): number {
    return this.#area.scrollTop;
  }

  toEnd(): void {
    this.#isFollowing = true;
    this.#area.scrollTop = this.#area.scrollHeight;
    this.#lastTop = this.#area.scrollTop;
    this.#newCount = 0;
    this.#showButton();
    this.#onEnd();
  }

  /** Counts a new message that is not visible. */
  countNew(): void {
    this.#newCount++;
    this.#showButton();
  }

  /** Keeps what is visible in place while `change` adds entries above it. */
  holdStill(change: () => void): void {
    const fromEnd = this.#fromEnd;
    change();
    this.#lastTop = this.#area.scrollTop = this.#area.scrollHeight - fromEnd;
  }

  get #fromEnd(): number {
    return this.#area.scrollHeight - this.#area.scrollTop;
  }

  #showButton(): void {
    this.#newButton.hidden = this.#isFollowing;
    this.#newButton.textContent = this.#newCount > 0 ? words.newMessages(this.#newCount) : words.latest;
  }
}
