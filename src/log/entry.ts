/** What a log entry has besides its message. */

export type LogLevel = 'error' | 'warning' | 'info' | 'debug';

/** Short names in lower case; `export` and `domainUuid` become XNBD_EXPORT and DOMAIN_UUID in the journal. */
export type LogFields = Readonly<Record<string, string>>;
