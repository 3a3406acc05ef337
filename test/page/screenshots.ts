/**
 * `bun test/page/screenshots.ts`: takes the pictures of the page that the README shows, into `src/page/screenshots/`.
 * Needs Chromium, and a font with colour emoji.
 */

import { join } from "node:path";
import { joinPage, type Page } from "../support/browser.ts";
import { startServer } from "../support/server.ts";

const FOLDER = join(import.meta.dir, "../../src/page/screenshots");
const PEOPLE = ["maria", "jonas", "雅婷", "olga", "lucas"];
const QUALITY = 80;

/** With a language, as a message. */
const CODE = `\`\`\`js
const room = connect({ id: "sensor", room: "garden" });
room.send("22 °C, soil is dry");
\`\`\``;

/** From whom, minutes ago, and what. */
const CONVERSATION: readonly (readonly [string, number, string | { readonly picture: true }])[] = [
  ["jonas", 42, "Morning! The tomatoes made it through the night 🌱"],
  ["jonas", 41, "Watering on Friday, who is in?"],
  ["ann", 38, "Me. I bring the long hose."],
  ["maria", 21, { picture: true }],
  ["maria", 21, "From the roof just now. The sensor by the window joins this room too, in two lines:"],
  ["maria", 20, CODE],
  ["雅婷", 12, "早安！我星期五下班後過去幫忙。"],
  ["ann", 8, "謝謝 @雅婷, see you at six"],
  ["maria", 3, "@ann can you take the key for the shed?"],
  ["ann", 2, "Yes, it is in my bag"],
  ["jonas", 1, "🎉"],
];

/** A promise of a landscape as base64. */
const PICTURE = `(async () => {
  const canvas = new OffscreenCanvas(900, 400);
  const context = canvas.getContext("2d");
  const fill = (colours, top, bottom) => {
    const gradient = context.createLinearGradient(0, top, 0, bottom);
    colours.forEach((colour, i) => gradient.addColorStop(i / (colours.length - 1), colour));
    context.fillStyle = gradient;
  };
  fill(["#31456f", "#a8718a", "#f3a56b", "#fbd58d"], 0, 300);
  context.fillRect(0, 0, 900, 400);
  context.fillStyle = "#fff1c9";
  context.beginPath();
  context.arc(610, 215, 40, 0, 7);
  context.fill();
  const hills = [["#8a6d8e", 240, 40], ["#584f78", 285, 32], ["#2d3557", 330, 24]];
  for (const [colour, height, swing] of hills) {
    fill([colour, "#1d2440"], height, 460);
    context.beginPath();
    context.moveTo(0, 400);
    for (let x = 0; x <= 900; x += 4)
      context.lineTo(x, height + swing * Math.sin(x / 97 + height) + (swing / 2) * Math.sin(x / 41 + height / 2));
    context.lineTo(900, 400);
    context.fill();
  }
  const blob = await canvas.convertToBlob({ type: "image/webp", quality: 0.9 });
  return new Uint8Array(await blob.arrayBuffer()).toBase64();
})()`;

await using server = await startServer();
await Promise.all(PEOPLE.map((name) => server.join(name, { room: "garden" })));
for (const [name, look, scale] of [
  ["wide-light", { width: 1280, height: 860 }, 1.5],
  ["phone-dark", { width: 390, height: 860, dark: true, touch: true }, 2],
] as const) {
  using page = await joinPage(server, "/client?id=ann&room=garden", { name: "localhost", ...look });
  await page.cdp("Emulation.setDeviceMetricsOverride", {
    width: look.width,
    height: look.height,
    deviceScaleFactor: scale,
    mobile: false,
  });
  await page.cdp("Emulation.setScrollbarsHidden", { hidden: true }); // as on a phone, where they cover the page
  await fill(page);
  const { data } = await page.cdp<{ data: string }>("Page.captureScreenshot", {
    format: "webp",
    quality: QUALITY,
  });
  const size = await Bun.write(join(FOLDER, `${name}.webp`), Uint8Array.fromBase64(data));
  console.log(`${name}.webp: ${Math.ceil(size / 1024)} KB`);
}
await server[Symbol.asyncDispose]();
process.exit(); // or the browser stays

/** Delivers the conversation as the server would, at the times that it shows. */
async function fill(page: Page): Promise<void> {
  const picture = await page.run<string>(PICTURE);
  await page.receives(
    ...CONVERSATION.map(([from, minutes, what], i) => ({
      type: "message",
      id: `${i + 1}-0`,
      time: Date.now() - minutes * 60_000,
      from,
      ...(typeof what === "string" ? { text: what } : { data: picture }),
    })),
  );
  await page.shows("[...document.images].every(({ complete }) => complete)", true);
  await page.run("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))");
}
