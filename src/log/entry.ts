/** What a log entry has besides its message. */

import type { MessageName } from './messages.ts';

export type LogLevel = 'error' | 'warning' | 'info' | 'debug';

/**
 * Short names in lower case; what each is in the journal is in journal.ts. `id` says which message of
 * messages.ts it is.
 */
export type LogFields = Readonly<Record<string, string>> & { readonly id?: MessageName };
