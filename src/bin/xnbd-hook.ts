/**
 * Asks the daemon what to do at one libvirt hook: `xnbd-hook DRIVER GUEST OP SUBOP EXTRA [--socket PATH]`,
 * the domain's XML on stdin. Prints what the daemon wants printed and exits with its code.
 *
 * Without the daemon, only the operations that begin something may fail: a guest whose disks no export serves
 * must not start. What reports an end, and `reconnect` (libvirt kills the running guest when it fails),
 * always exits 0. An end is told once, so it is left for the daemon that comes back, as a file in the
 * directory `missed` beside the socket (src/daemon/hooks/missed-ends.ts).
 *
 * libvirt waits for this program, so it imports nothing that costs start-up time.
 */
import { renameSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { text } from 'node:stream/consumers';
import packageJson from '../../package.json' with { type: 'json' };

interface Answer {
  exit: number;
  stdout: string;
  stderr: string;
}

/** Longer than the daemon's own limit for a hook, so that its more exact message comes first. */
const patienceMs = 30_000;
const ends = new Set(['stopped', 'release']);
const neverFails = new Set([...ends, 'reconnect']);
const needsDaemon = new Set(['prepare', 'migrate']);

if (process.argv[2] === '--version') {
  process.stdout.write(`${packageJson.version}\n`);
  process.exit(0);
}
const [driver, guest, op, subop, extra, ...options] = process.argv.slice(2);
if (driver === undefined || guest === undefined || op === undefined) {
  process.stderr.write('usage: xnbd-hook DRIVER GUEST OP SUBOP EXTRA [--socket PATH]\n');
  process.exit(2);
}
const socketAt = options.indexOf('--socket');
const socketPath = (socketAt === -1 ? undefined : options[socketAt + 1]) ?? '/run/xnbd/hook.sock';

function ask(question: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath, () => socket.write(question));
    const timer = setTimeout(() => {
      socket.destroy();
      reject(
        new Error(`xnbdd took this hook on ${socketPath} but did not answer within ${patienceMs / 1000} s`),
      );
    }, patienceMs);
    let received = '';
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => (received += chunk));
    socket.on('error', () => {
      clearTimeout(timer);
      reject(new Error(`xnbdd does not answer on ${socketPath}: systemctl start xnbdd`));
    });
    socket.on('end', () => {
      clearTimeout(timer);
      try {
        resolve(JSON.parse(received) as Answer);
      } catch {
        reject(new Error(`xnbdd ended while this hook waited on ${socketPath}: journalctl -u xnbdd`));
      }
    });
  });
}

/** Only where a daemon has made the directory. */
function leaveForTheDaemon(question: string): void {
  const path = join(dirname(socketPath), 'missed', `${Date.now()}-${process.pid}`);
  try {
    writeFileSync(path, question, { mode: 0o600 });
    renameSync(path, `${path}.json`);
  } catch (error) {
    process.stderr.write(`the daemon will not hear of it either: ${(error as Error).message}\n`);
  }
}

const xml = await text(process.stdin);
const question = JSON.stringify({ driver, guest, op, subop: subop ?? '-', extra: extra ?? '-', xml });
try {
  const answer = await ask(`${question}\n`);
  process.stdout.write(answer.stdout);
  process.stderr.write(answer.stderr);
  process.exitCode = neverFails.has(op) ? 0 : answer.exit;
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  if (ends.has(op)) leaveForTheDaemon(question);
  process.exitCode = needsDaemon.has(op) ? 1 : 0;
}
