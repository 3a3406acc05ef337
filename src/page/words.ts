/** Every sentence of the page, in English and in Chinese, in Traditional and in Simplified characters. */

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
  latest: "↓ Latest",
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
  copy: "Copy",
  copied: "Copied",
  image: "Image",
  someone: "Someone sent a file",
  announce: (name: string, text: string) => `${name}: ${text}`,
  announceMany: (count: number) => `${count} new messages`,
  earlier: (count: number) => `${count} earlier messages`,

  /** By HTTP status or close code; without an entry, the reason that the server gives, which is English. */
  closed: new Map<number, string>(),
};

const traditional: typeof english = {
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
  latest: "↓ 最新訊息",
  lost: "連線中斷。你寫的內容會保留。",
  notYet: "還沒有連上。你寫的內容會保留。",
  again: (seconds) => `${seconds} 秒後重試`,
  connecting: "連線中…",
  tryNow: "立即重試",
  back: "已恢復連線。",
  gap: "這裡可能缺少一些訊息。",
  tooLong: (size, most) => `這則訊息有 ${size}，一則最多 ${most}。請分成幾則。`,
  download: "下載",
  copy: "複製",
  copied: "已複製",
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

const simplified: typeof english = {
  youAre: "你是",
  room: "房间",
  close: "关闭",
  you: "（你）",
  here: (count) => `${count} 人在这里`,
  joined: "来了",
  unread: "新消息",
  notSent: (reason) => `没有发送：${reason}`,
  twin: (name) => `已经有人以 ${name} 的名字在这里。`,
  thatsMe: "那是我",
  caughtUp: (count) => `已恢复连接。补上了 ${count} 条消息，没有遗漏。`,
  rename: "改名字",
  conversation: "对话",
  empty: "还没有人说话。打个招呼，或在另一个标签页打开这个页面。",
  message: "消息",
  send: "发送",
  yourName: "你的名字",
  invalidName: "这个名字不能用。",
  invalidRoom: "这个房间名称不能用。",
  choose: "选一个名字",
  chooseRoom: "选另一个房间",
  nameRule: "1 到 64 个字母、数字或“_”“-”“.”，任何文字都可以，不含空格。",
  cancel: "取消",
  use: "使用",
  sending: "发送中…",
  unsure: "可能没有发送",
  retry: "重试",
  remove: "删除",
  left: "离开了",
  others: (count) => `另外 ${count} 人`,
  newMessages: (count) => `${count} 条新消息 ↓`,
  latest: "↓ 最新消息",
  lost: "连接中断。你写的内容会保留。",
  notYet: "还没有连上。你写的内容会保留。",
  again: (seconds) => `${seconds} 秒后重试`,
  connecting: "连接中…",
  tryNow: "立即重试",
  back: "已恢复连接。",
  gap: "这里可能缺少一些消息。",
  tooLong: (size, most) => `这条消息有 ${size}，一条最多 ${most}。请分成几条。`,
  download: "下载",
  copy: "复制",
  copied: "已复制",
  image: "图片",
  someone: "有人发来文件",
  closed: new Map([
    [401, "这里需要有效的令牌，请向管理员索取。"],
    [403, "你不能用这个名字、房间或网址连接。"],
    [1008, "令牌过期了，或是发送太多了。"],
    [4001, "这段对话已在别处继续。"],
  ]),
  foreign: (origin) => `这个服务器不接受 ${origin} 的连接。请管理员以 --public-url ${origin} 允许这个网址。`,
  announce: (name, text) => `${name}：${text}`,
  announceMany: (count) => `${count} 条新消息`,
  earlier: (count) => `${count} 条较早的消息`,
};

/** The words, the language of the page, and the locale for dates, numbers and sorting. */
function choose(preferred: string): readonly [typeof english, string, string] {
  if (/^en/i.test(preferred)) return [english, "en", preferred];
  if (!/^zh/i.test(preferred)) return [english, "en", "en"];
  return /^zh-(hans|cn|sg|my)/i.test(preferred)
    ? [simplified, "zh-Hans", "zh-Hans-CN"]
    : [traditional, "zh-Hant", "zh-Hant-TW"];
}

export const [words, pageLanguage, locale] = choose(navigator.language);

/** Fills in the texts that index.html names in its `data-` attributes. */
export function localize(): void {
  document.documentElement.lang = pageLanguage;
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
