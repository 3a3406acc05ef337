/** A real nginx with the documented configuration, on free ports, in a temporary folder. */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { withDeadline } from "./deadline.ts";
import { freePort } from "./http.ts";
import { findProgram } from "./programs.ts";
import { codeBlock, substitute } from "./docs.ts";

const { path: nginx, skipped } = findProgram("nginx-light", "nginx", "/usr/sbin/nginx");
export { skipped };

const TEMPORARY = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];

interface Nginx extends AsyncDisposable {
  readonly httpPort: number;
  readonly httpsPort: number;
}

/**
 * @param upstream the server's port
 * @param more lines for the `http` block
 * @param other the port of a second node
 */
export async function startNginx(upstream: number, more = "", other?: number): Promise<Nginx> {
  if (!nginx) throw new Error("There is no nginx here: install it.");
  const folder = mkdtempSync(`${tmpdir()}/hubbub-nginx-`);
  const [httpPort, httpsPort] = [freePort(), freePort()];
  const nodes =
    other === undefined
      ? ""
      : substitute(codeBlock("src/store/redis/README.md", "nginx"), {
          "127.0.0.1:8001": `127.0.0.1:${upstream}`,
          "127.0.0.1:8002": `127.0.0.1:${other}`,
        });
  const server = substitute(codeBlock("src/ops/README.md", "nginx"), {
    "listen 443 ssl;": `listen 127.0.0.1:${httpsPort} ssl; listen 127.0.0.1:${httpPort};`,
    "/etc/ssl/chat.example.": `${import.meta.dir}/tls/localhost.`,
    "http://127.0.0.1:8000": nodes ? "http://hubbub" : `http://127.0.0.1:${upstream}`,
  });
  const lines = nodes + server;
  const config = `
    daemon off;
    master_process off;
    pid ${folder}/pid;
    events {}
    http {
      access_log off;
      ${TEMPORARY.map((name) => `${name}_temp_path ${folder}/${name};`).join("\n")}
      ${more}
      ${lines}
    }`;
  await Bun.write(`${folder}/nginx.conf`, `error_log stderr notice;\n${config}`);
  const process = Bun.spawn([nginx, "-e", "stderr", "-p", folder, "-c", `${folder}/nginx.conf`], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  const stop = async () => {
    process.kill();
    await process.exited;
    rmSync(folder, { recursive: true });
  };
  const listening = Promise.withResolvers<void>();
  let said = "";
  void (async () => {
    for await (const text of process.stderr.pipeThrough(new TextDecoderStream())) {
      said += text;
      // The line with its version is logged once its ports are open.
      if (said.includes(" nginx/")) listening.resolve();
    }
    listening.reject(new Error(`nginx ended: ${said}`));
  })();
  try {
    await withDeadline(listening.promise, () => `nginx does not start: ${said}`);
  } catch (error) {
    await stop();
    throw error;
  }
  return { httpPort, httpsPort, [Symbol.asyncDispose]: stop };
}
