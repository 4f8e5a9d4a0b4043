/**
 * The log of a resident program (the daemon, the gateway): winston with syslog's levels, to the journal under
 * systemd, else to stderr.
 */
import { Writable } from 'node:stream';
import winston from 'winston';
import type { LogFields, LogLevel } from './entry.ts';
import { Journal } from './journal.ts';
import { stderrIsJournal, writeLine } from './line.ts';
import { configureLog, type LogSink } from './log.ts';

export interface ResidentLogOptions {
  /** The program's name, as journalctl -t takes it. */
  identifier: string;
  level: LogLevel;
  /** journald's socket; by default the system's, when stderr leads to the journal anyway. */
  journalPath?: string;
  /** What else is known of what an entry is about, for the journal. */
  complete?: (fields: LogFields) => LogFields;
}

interface Entry {
  level: LogLevel;
  message: string;
  fields: LogFields;
}

/** The end of winston's pipe: entries, unformatted, to `write`. */
function sinkStream(write: LogSink): Writable {
  return new Writable({
    objectMode: true,
    write({ level, message, fields }: Entry, _encoding, done) {
      write(level, message, fields);
      done();
    },
  });
}

/**
 * Puts winston behind `log`. Returns a function that lets go of the journal and puts stderr back, for an
 * orderly end.
 */
export function startResidentLog(options: ResidentLogOptions): () => void {
  const journal =
    options.journalPath !== undefined || stderrIsJournal()
      ? new Journal({
          identifier: options.identifier,
          otherwise: writeLine,
          ...(options.journalPath === undefined ? {} : { path: options.journalPath }),
          ...(options.complete === undefined ? {} : { complete: options.complete }),
        })
      : undefined;
  const logger = winston.createLogger({
    levels: winston.config.syslog.levels,
    level: 'debug', // `log` has already left out what is below the level.
  });
  logger.pipe(
    sinkStream(
      journal === undefined
        ? writeLine
        : (level, message, fields) => {
            journal.write(level, message, fields);
          },
    ),
  );
  configureLog({
    level: options.level,
    sink: (level, message, fields) => {
      logger.log({ level, message, fields });
    },
  });
  return () => {
    configureLog({ sink: writeLine });
    logger.close();
    journal?.close();
  };
}
