/** Every sentence of the page, in English and in Traditional Chinese (for any kind of Chinese). */

const english = {
  youAre: "You are",
  room: "Room",
  close: "Close",
  you: " (you)",
  here: (count: number) => `${count} here`,
  joined: " joined",
  unread: "New",
  notSent: (reason: string) => `Not sent: ${reason}`,
  twin: (name: string) => `Someone is already here as ${name}.`,
  thatsMe: "That’s me",
  caughtUp: (count: number) =>
    `Back. ${count === 1 ? "1 message" : `${count} messages`} caught up, nothing missing.`,
  rename: "Choose another name",
  conversation: "Conversation",
  empty: "No messages yet. Say hello, or open this page in a second tab.",
  message: "Message",
  send: "Send",
  yourName: "Your name",
  invalidName: "That name is not allowed.",
  invalidRoom: "That room name is not allowed.",
  choose: "Choose a name",
  chooseRoom: "Choose another room",
  nameRule: "1 to 64 letters, digits, “_”, “-” or “.”, in any script, without spaces.",
  cancel: "Cancel",
  use: "Use it",
  sending: "Sending…",
  unsure: "Maybe not sent",
  retry: "Retry",
  remove: "Delete",
  left: " left",
  others: (count: number) => (count === 1 ? "1 other" : `${count} others`),
  newMessages: (count: number) => `${count} new ↓`,
  lost: "Connection lost. What you write is kept.",
  notYet: "No connection yet. What you write is kept.",
  again: (seconds: number) => `Trying again in ${seconds} s`,
  connecting: "Connecting…",
  tryNow: "Try now",
  back: "Back.",
  gap: "Some messages may be missing here.",
  foreign: (origin: string) =>
    `This server does not accept connections from ${origin}. Its operator can allow this address with --public-url ${origin}.`,
  tooLong: (size: string, most: string) =>
    `This message is ${size}, and ${most} fit into one. Please split it.`,
  download: "Download",
  image: "Image",
  someone: "Someone sent a file",
  announce: (name: string, text: string) => `${name}: ${text}`,
  announceMany: (count: number) => `${count} new messages`,
  earlier: (count: number) => `${count} earlier messages`,

  /** By HTTP status or close code; without an entry, the reason that the server gives, which is English. */
  closed: new Map<number, string>(),
};

const chinese: typeof english = {
  youAre: "你是",
  room: "房間",
  close: "關閉",
  you: "（你）",
  here: (count) => `${count} 人在這裡`,
  joined: "來了",
  unread: "新訊息",
  notSent: (reason) => `沒有送出：${reason}`,
  twin: (name) => `已經有人以 ${name} 的名字在這裡。`,
  thatsMe: "那是我",
  caughtUp: (count) => `已恢復連線。補上了 ${count} 則訊息，沒有遺漏。`,
  rename: "改名字",
  conversation: "對話",
  empty: "還沒有人說話。打個招呼，或在另一個分頁打開這個頁面。",
  message: "訊息",
  send: "送出",
  yourName: "你的名字",
  invalidName: "這個名字不能用。",
  invalidRoom: "這個房間名稱不能用。",
  choose: "選一個名字",
  chooseRoom: "選另一個房間",
  nameRule: "1 到 64 個字母、數字或「_」「-」「.」，任何文字皆可，不含空格。",
  cancel: "取消",
  use: "使用",
  sending: "傳送中…",
  unsure: "可能沒有送出",
  retry: "重試",
  remove: "刪除",
  left: "離開了",
  others: (count) => `另外 ${count} 人`,
  newMessages: (count) => `${count} 則新訊息 ↓`,
  lost: "連線中斷。你寫的內容會保留。",
  notYet: "還沒有連上。你寫的內容會保留。",
  again: (seconds) => `${seconds} 秒後重試`,
  connecting: "連線中…",
  tryNow: "立即重試",
  back: "已恢復連線。",
  gap: "這裡可能缺少一些訊息。",
  tooLong: (size, most) => `這則訊息有 ${size}，一則最多 ${most}。請分成幾則。`,
  download: "下載",
  image: "圖片",
  someone: "有人傳來檔案",
  closed: new Map([
    [401, "這裡需要有效的權杖，請向管理員索取。"],
    [403, "你不能用這個名字、房間或網址連線。"],
    [1008, "權杖過期了，或是傳送太多了。"],
    [4001, "這段對話已在別處繼續。"],
  ]),
  foreign: (origin) => `這個伺服器不接受 ${origin} 的連線。請管理員以 --public-url ${origin} 允許這個網址。`,
  announce: (name, text) => `${name}：${text}`,
  announceMany: (count) => `${count} 則新訊息`,
  earlier: (count) => `${count} 則較早的訊息`,
};

const isChinese = /^zh/i.test(navigator.language);

/** For dates, numbers and sorting. */
export const language = isChinese
  ? "zh-Hant-TW"
  : /^en/i.test(navigator.language)
    ? navigator.language
    : "en";
export const words = isChinese ? chinese : english;

/** Fills in the texts that index.html names in its `data-` attributes. */
export function localize(): void {
  document.documentElement.lang = isChinese ? "zh-Hant" : "en";
  const texts = new Map(Object.entries(words));
  const setters: Record<string, (element: HTMLElement, text: string) => void> = {
    text: (element, text) => (element.textContent = text),
    label: (element, text) => (element.ariaLabel = text),
    title: (element, text) => (element.title = text),
    placeholder: (element, text) => element.setAttribute("placeholder", text),
  };
  for (const [attribute, set] of Object.entries(setters))
    for (const element of document.querySelectorAll<HTMLElement>(`[data-${attribute}]`)) {
      const text = texts.get(element.dataset[attribute] ?? "");
      if (typeof text === "string") set(element, text);
    }
}

/** In KB, which are 1,024 bytes here, rounded up. */
export function formatBytes(bytes: number): string {
  return bytes < 1024 ? `${bytes} B` : `${Math.ceil(bytes / 1024)} KB`;
}
