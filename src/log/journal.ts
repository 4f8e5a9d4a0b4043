/**
 * Entries to systemd-journald in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram an
 * entry, `KEY=value\n` each field. It keeps the fields apart, so that `journalctl XNBD_EXPORT=vm1-vda` works.
 */
import { DgramSocket } from 'node-unix-socket';
import type { LogFields, LogLevel } from './entry.ts';
import { oneLine, priorities } from './line.ts';
import { messages } from './messages.ts';

const socketPath = '/run/systemd/journal/socket';

/** Datagrams beyond about 200 KB fail; longer entries would need a memfd. */
export const maxDatagramLength = 150_000;

/** Those that are more than the same in capitals. */
const fieldNames = new Map([
  ['export', 'XNBD_EXPORT'],
  ['peer', 'XNBD_PEER'],
  ['state', 'XNBD_STATE'],
  ['domain', 'DOMAIN_NAME'],
]);

/** `domainUuid` to DOMAIN_UUID; undefined for what journald would drop. */
function fieldName(key: string): string | undefined {
  const name = fieldNames.get(key) ?? key.replace(/([a-z0-9])([A-Z])/g, '$1_$2').toUpperCase();
  return /^[A-Z][A-Z0-9_]{0,63}$/.test(name) ? name : undefined;
}

/**
 * One entry as a datagram of at most `maxDatagramLength` bytes: fields that do not fit are left out, the
 * message (32 Ki characters at most) always fits. No value holds a newline (oneLine), so the protocol's
 * binary form is never needed.
 */
export function encodeJournalEntry(
  identifier: string,
  level: LogLevel,
  message: string,
  fields: LogFields,
): Buffer {
  const { id, ...others } = fields;
  const lines = [
    ...(id === undefined ? [] : [`MESSAGE_ID=${messages[id].id}\n`]),
    `MESSAGE=${oneLine(message)}\n`,
    `PRIORITY=${priorities[level]}\n`,
    `SYSLOG_IDENTIFIER=${oneLine(identifier)}\n`,
    `SYSLOG_PID=${process.pid}\n`,
  ];
  const taken = new Set(['MESSAGE', 'MESSAGE_ID', 'PRIORITY', 'SYSLOG_IDENTIFIER', 'SYSLOG_PID']);
  let length = lines.reduce((sum, line) => sum + Buffer.byteLength(line), 0);
  for (const [key, value] of Object.entries(others)) {
    const name = fieldName(key);
    if (name === undefined || taken.has(name)) continue;
    const line = `${name}=${oneLine(value)}\n`;
    length += Buffer.byteLength(line);
    if (length > maxDatagramLength) break;
    taken.add(name);
    lines.push(line);
  }
  return Buffer.from(lines.join(''));
}

export interface JournalOptions {
  /** SYSLOG_IDENTIFIER: the program's name. */
  identifier: string;
  /** journald's socket. */
  path?: string;
  /** Gets the entries that journald did not take. */
  otherwise: (level: LogLevel, message: string, fields: LogFields) => void;
  /** What else is known of what an entry is about. The entry's own fields go before. */
  complete?: (fields: LogFields) => LogFields;
}

export class Journal {
  readonly #socket = new DgramSocket();
  readonly #options: JournalOptions;

  constructor(options: JournalOptions) {
    this.#options = options;
    this.#socket.on('error', () => undefined);
  }

  /** The kernel has the entry when this returns; a process that ends at once after it has lost nothing. */
  write(level: LogLevel, message: string, fields: LogFields): void {
    const { identifier, path = socketPath, otherwise, complete } = this.#options;
    const all = complete === undefined ? fields : { ...complete(fields), ...fields };
    const datagram = encodeJournalEntry(identifier, level, message, all);
    try {
      this.#socket.sendTo(datagram, 0, datagram.length, path, (error) => {
        if (error !== undefined) otherwise(level, message, fields);
      });
    } catch {
      otherwise(level, message, fields);
    }
  }

  /** An open journal keeps the process alive. */
  close(): void {
    this.#socket.close();
  }
}
