/**
 * An xnbd-export whose control socket speaks another release's language, for a daemon to start in place of
 * today's: its status lacks most properties, has some that this release does not know, and has one of another
 * type; and it knows no shares. All else, the NBD socket too, is today's.
 */

/** What the status of every release has. */
const LASTING = [
  'name',
  'uuid',
  'generation',
  'state',
  'pid',
  'sizeBytes',
  'presentBytes',
  'origin',
  'image',
  'socket',
  'lease',
];

const stringify = JSON.stringify.bind(JSON) as (value: unknown, ...more: unknown[]) => string;

JSON.stringify = ((value: unknown, ...more: unknown[]) => {
  if (typeof value !== 'object' || value === null) return stringify(value, ...more);
  const { result, status } = value as { result?: unknown; status?: unknown };
  if (isStatus(result)) return stringify({ ...value, result: anotherReleases(result) });
  if (isStatus(status)) return stringify({ ...value, status: anotherReleases(status) });
  return stringify(value, ...more);
}) as typeof JSON.stringify;

const parse = JSON.parse.bind(JSON);

JSON.parse = ((text: string, ...more: []) => {
  const value = parse(text, ...more) as { method?: unknown } | null;
  return value?.method === 'share' ? { ...value, method: 'unheard-of' } : value;
}) as typeof JSON.parse;

function isStatus(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && 'presentBytes' in value;
}

function anotherReleases(status: Record<string, unknown>): Record<string, unknown> {
  const kept = Object.fromEntries(LASTING.map((name) => [name, status[name]]));
  return { ...kept, badBytes: 'none', heads: 255, guests: { vm1: [1, 2] } };
}

const { main } = await import('../../../src/bin/xnbd-export.ts');
await main();
