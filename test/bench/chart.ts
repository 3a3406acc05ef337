/** Draws the ratios to plain Bun.serve as an SVG of a few kilobytes, for light and dark backgrounds. */

import type { Result, Results } from "./results.ts";

const WIDTH = 760;
const LEFT = 236;
const RIGHT = 84;
const TOP = 92;
const ROW = 34;
const BAR = 20;
const BELOW = 58;
/** Smaller differences are within the noise. */
const CLEARLY = 1.1;

export function chart({ machine, results }: Results): string {
  const shown = results.filter(({ ratio }) => ratio > 0);
  const longest = Math.max(1, ...shown.map(({ ratio }) => ratio));
  const xOf = (ratio: number) => LEFT + ((WIDTH - LEFT - RIGHT) * ratio) / longest;
  const bottom = TOP + ROW * shown.length;
  const ticks = Array.from({ length: Math.floor(longest) }, (_, i) => i + 1);
  const lines = ticks.map((tick) => {
    const x = xOf(tick).toFixed(1);
    const label = tick === 1 ? "plain Bun.serve" : `${tick}×`;
    return `<path class="${tick === 1 ? "one" : "grid"}" d="M${x} ${TOP - 8}V${bottom}"/><text class="tick" x="${x}" y="${TOP - 15}" text-anchor="middle">${label}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${bottom + BELOW}" width="${WIDTH}" height="${bottom + BELOW}" role="img" aria-labelledby="title">
  <title id="title">Deliveries per second of CPU, Hubbub to plain Bun.serve: ${shown.map(spoken).join(", ")}</title>
  <style>
    text { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
    .head { font-size: 17px; font-weight: 600; }
    .note, .tick, .wire { fill: #59636e; }
    .note, .tick { font-size: 12px; }
    .ratio { font-weight: 600; font-variant-numeric: tabular-nums; }
    .paper { fill: #fff; stroke: #d1d9e0; }
    .track { fill: #eff2f5; }
    .bar { fill: #0f766e; }
    .even { fill: #8b949e; }
    .grid { stroke: #d1d9e0; }
    .one { stroke: #59636e; stroke-dasharray: 3 3; }
    @media (prefers-color-scheme: dark) {
      text { fill: #f0f6fc; }
      .note, .tick, .wire { fill: #9198a1; }
      .paper { fill: #0d1117; stroke: #3d444d; }
      .track { fill: #1b222b; }
      .bar { fill: #2dd4bf; }
      .even { fill: #6e7681; }
      .grid { stroke: #3d444d; }
      .one { stroke: #9198a1; }
    }
  </style>
  <rect class="paper" x=".5" y=".5" width="${WIDTH - 1}" height="${bottom + BELOW - 1}" rx="10"/>
  <text class="head" x="24" y="38">Deliveries for the same work of the server</text>
  ${shown.map((result, i) => row(result, TOP + ROW * i + (ROW - BAR) / 2, xOf)).join("\n  ")}
  ${lines.join("\n  ")}
  <text class="note" x="24" y="${bottom + 34}">${escape(`Per second of CPU, medians of 5 runs. ${machine.cpu}, ${machine.cores} cores, Bun ${machine.bun}, ${machine.date}.`)}</text>
</svg>
`;
}

function row({ scenario, wire, ratio }: Result, y: number, xOf: (ratio: number) => number): string {
  const width = xOf(ratio) - LEFT;
  const middle = y + BAR / 2 + 5;
  return [
    `<text x="24" y="${middle}">${escape(scenario)}<tspan class="wire" dx="6">${wireName(wire)}</tspan></text>`,
    `<rect class="track" x="${LEFT}" y="${y}" width="${WIDTH - LEFT - RIGHT}" height="${BAR}" rx="4"/>`,
    `<rect class="${ratio >= CLEARLY ? "bar" : "even"}" x="${LEFT}" y="${y}" width="${width.toFixed(1)}" height="${BAR}" rx="4"/>`,
    `<text class="ratio" x="${WIDTH - 24}" y="${middle}" text-anchor="end">${ratio.toFixed(2)}×</text>`,
  ].join("");
}

function spoken({ scenario, wire, ratio }: Result): string {
  return escape(`${scenario} ${wireName(wire)}`.trim() + ` ${ratio.toFixed(2)}`);
}

function wireName(wire: Result["wire"]): string {
  return { text: "text", json: "JSON", sse: "SSE", echo: "" }[wire];
}

function escape(text: string): string {
  return text.replace(/[&<>]/g, (character) => `&#${character.charCodeAt(0)};`);
}
