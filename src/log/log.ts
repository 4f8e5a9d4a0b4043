/**
 * What every room calls to say something: a level, one line, and fields for programs that filter.
 *
 * This front is all that an export pays for (no dependency, a synchronous write to stderr); the daemon puts
 * winston and the journal behind it (resident.ts), which would cost an export some 50 ms and 18 MB each.
 *
 * A message stands on its own: the journal shows it without its fields.
 */
import type { LogFields, LogLevel } from './entry.ts';
import { writeLine } from './line.ts';

export type LogSink = (level: LogLevel, message: string, fields: LogFields) => void;

/** From the gravest on. */
const logLevels: readonly LogLevel[] = ['error', 'warning', 'info', 'debug'];

let threshold = logLevels.indexOf('info');
let sink: LogSink = writeLine;
let front = '';

/**
 * `level`: the least grave that is written (info at first). `sink`: where to (stderr at first). `disk`: the
 * one that the process serves, named in front of each message ('': none). What is not given stays.
 */
export function configureLog(options: { level?: LogLevel; sink?: LogSink; disk?: string }): void {
  if (options.disk !== undefined) front = options.disk === '' ? '' : `${options.disk}: `;
  if (options.level !== undefined) threshold = logLevels.indexOf(options.level);
  if (options.sink !== undefined) sink = options.sink;
}

function write(level: LogLevel, message: string, fields: LogFields = {}): void {
  if (logLevels.indexOf(level) <= threshold) sink(level, front + message, fields);
}

/** Never throws: a log that cannot be written is no reason to stop serving a disk. */
export const log = {
  debug: (message: string, fields?: LogFields): void => write('debug', message, fields),
  info: (message: string, fields?: LogFields): void => write('info', message, fields),
  warning: (message: string, fields?: LogFields): void => write('warning', message, fields),
  error: (message: string, fields?: LogFields): void => write('error', message, fields),
};
