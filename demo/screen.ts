/** What the demo prints: one line a step, a live line while the disk is on its way, a table at the end. */
import { SingleBar } from 'cli-progress';
import Table from 'cli-table3';
import type { ExportStatus } from '../src/control/status.ts';
import { formatShare } from '../src/log/numbers.ts';
import { progressText } from '../src/xnbdctl/watch/progress.ts';

const out = process.stdout;
const WIDTH = 14;
const style = (code: number, text: string): string => (out.isTTY ? `\x1b[${code}m${text}\x1b[0m` : text);
export const bold = (text: string): string => style(1, text);
export const faint = (text: string): string => style(2, text);

export function title(text: string): void {
  out.write(`\n${bold(text)}\n\n`);
}

/** One step: a word, and what is so. */
export function step(word: string, text: string): void {
  out.write(`  ${bold(word.padEnd(WIDTH))}${text}\n`);
}

export function good(word: string, text: string): void {
  out.write(`  ${style(32, `✔ ${word}`.padEnd(WIDTH))}${text}\n`);
}

export function bad(word: string, text: string): void {
  out.write(`  ${style(31, `✘ ${word}`.padEnd(WIDTH))}${text}\n`);
}

export function table(rows: [string, string][]): void {
  const made = new Table({
    style: { head: [], border: out.isTTY ? ['grey'] : [] },
    chars: { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' },
  });
  made.push(...rows.map(([what, value]) => [faint(what), value]));
  out.write(`\n${made.toString().replaceAll(/^/gm, '  ')}\n\n`);
}

export interface LiveLine {
  show(status: ExportStatus, guest: string): void;
  end(): void;
}

/** A bar that moves; a line every two seconds where stdout is no terminal. */
export function liveLine(): LiveLine {
  if (!out.isTTY) {
    let last = 0;
    return {
      show(status, guest) {
        if (performance.now() - last < 2000) return;
        last = performance.now();
        const { presentBytes, sizeBytes } = status;
        step('', `${formatShare(presentBytes, sizeBytes).padStart(6)}  ${progressText(status)}  ${guest}`);
      },
      end: () => undefined,
    };
  }
  const bar = new SingleBar({
    stream: out,
    format: `  ${' '.repeat(WIDTH)}${style(32, '{bar}')} {share}  {text}  ${faint('{guest}')}`,
    barCompleteChar: '━',
    barIncompleteChar: '╌',
    barsize: 24,
    hideCursor: true,
    linewrap: false,
    clearOnComplete: true,
    gracefulExit: false,
  });
  let started = false;
  return {
    show(status, guest) {
      const { presentBytes, sizeBytes } = status;
      const payload = {
        share: formatShare(presentBytes, sizeBytes).padStart(6),
        text: progressText(status),
        guest,
      };
      if (started) bar.update(presentBytes, payload);
      else bar.start(sizeBytes, presentBytes, payload);
      started = true;
    },
    end: () => bar.stop(),
  };
}
