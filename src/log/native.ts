/**
 * The log of a small program (an export) straight to the journal, where its stderr leads there anyway: each
 * entry with its fields, which a line of text has not. Without winston (resident.ts), which would cost it
 * memory and time.
 */
import type { LogFields } from './entry.ts';
import { Journal } from './journal.ts';
import { stderrIsJournal, writeLine } from './line.ts';
import { configureLog } from './log.ts';

let started = false;

/**
 * @param complete what else is known of what an entry is about. Nothing happens where there is no journal.
 */
export function logToJournal(identifier: string, complete: () => LogFields): void {
  if (started || !stderrIsJournal()) return;
  started = true;
  const journal = new Journal({ identifier, otherwise: writeLine, complete });
  configureLog({ sink: (level, message, fields) => journal.write(level, message, fields) });
}
