/** Text from the network, fit for one line of a log or message: ASCII, and `most` characters of it. */
export function printable(text: string, most = 100): string {
  const clean = text.replace(/[^\x20-\x7e]/g, '?');
  return clean.length > most ? `${clean.slice(0, most)}...` : clean;
}
