/**
 * A log entry as one line of text on stderr.
 *
 * Messages carry what peers and guests sent (names, error texts), so control characters are escaped: no peer
 * forges a second line or drives a terminal.
 */
import { fstatSync, writeSync } from 'node:fs';
import type { LogFields, LogLevel } from './entry.ts';

/** syslog(3). */
export const priorities: Readonly<Record<LogLevel, number>> = { error: 3, warning: 4, info: 6, debug: 7 };

/** Characters of one message or field that are kept. */
const maxLength = 32_768;

/**
 * The text on one line: control, line-breaking and direction-changing characters as \n, \t or \u{..}; cut
 * after 32,768 characters.
 */
export function oneLine(text: string): string {
  const kept = text.length > maxLength ? `${text.slice(0, maxLength)}... (${text.length} characters)` : text;
  return kept.replace(
    /[\p{Cc}\p{Zl}\p{Zp}\u061C\u200E\u200F\u202A-\u202E\u2066-\u2069]|\p{Cs}/gu,
    (character) => {
      if (character === '\n') return '\\n';
      if (character === '\t') return '\\t';
      return `\\u{${character.codePointAt(0)!.toString(16)}}`;
    },
  );
}

/** `message key=value key="value with spaces"`; which message it is, is for the journal. */
export function formatEntry(message: string, fields: LogFields): string {
  const parts = [oneLine(message)];
  for (const [key, value] of Object.entries(fields)) {
    if (key === 'id') continue;
    const line = oneLine(value);
    parts.push(`${oneLine(key)}=${/^[^\s"=]+$/.test(line) ? line : JSON.stringify(line)}`);
  }
  return parts.join(' ');
}

/**
 * Whether our stderr is a stream to the journal: systemd says which file it gave us in JOURNAL_STREAM
 * (device:inode).
 */
export function stderrIsJournal(environment: NodeJS.ProcessEnv = process.env): boolean {
  const stream = environment.JOURNAL_STREAM;
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(2, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}

let prefixed: boolean | undefined;

/**
 * Writes the entry to stderr: with `<N>` in front where the journal reads it, else with time and level.
 * Synchronous, and deaf to errors: a reader that went away (EPIPE) or that does not keep up (EAGAIN) loses
 * lines.
 */
export function writeLine(level: LogLevel, message: string, fields: LogFields): void {
  prefixed ??= stderrIsJournal();
  const front = prefixed ? `<${priorities[level]}>` : `${new Date().toISOString()} ${level}: `;
  try {
    writeSync(2, `${front}${formatEntry(message, fields)}\n`);
  } catch {
    // Where the log itself fails, there is nowhere left to say so.
  }
}
