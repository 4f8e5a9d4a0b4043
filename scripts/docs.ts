/**
 * Writes what follows from the tables of src/ into the documents, between `<!-- NAME -->` and
 * `<!-- /NAME -->`: settings, control methods, the properties of a status with their names on D-Bus. Without an
 * argument it writes; with `--check` it only names documents that are not up to date.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type DiskSetting, relocationRows } from '../src/config/settings.ts';
import { methodRows } from '../src/control/methods.ts';
import { statusRows } from '../src/control/status.ts';
import { exportRows } from '../src/daemon/dbus/interfaces.ts';
import { messages } from '../src/log/messages.ts';

const COLUMNS = 100;
const top = join(import.meta.dirname, '..');

const tables: Readonly<Record<string, () => string[]>> = {
  relocation: () =>
    relocationRows.map(([name, row]) => {
      const { default: otherwise, help, allowed } = row;
      const { changeable = false } = row as Partial<DiskSetting<unknown>>;
      const change = changeable ? '; `xnbdctl set` changes it' : '';
      return `\`${name} = ${otherwise}\`: ${help}. Allowed is ${allowed}${change}.`;
    }),
  methods: () =>
    methodRows.map(([name, { help, bus }]) => {
      const onBus = bus === undefined ? '' : ` (D-Bus: ${bus})`;
      return `\`${name}\`${onBus}: ${help}.`;
    }),
  status: () =>
    statusRows.map(([name, { unit, help }]) => {
      const onBus = exportRows
        .filter((row) => row.name === name)
        .map(({ onBus: called, shown }) => `\`${called}\` ${shown.signature}`);
      const notes = [...(unit === undefined ? [] : [unit]), ...onBus];
      return `\`${name}\`${notes.length === 0 ? '' : ` (${notes.join(', ')})`}: ${help}.`;
    }),
};

const CATALOGUE = 'packaging/journal/xnbd.catalog';

/** What `journalctl -x` shows of each message. */
function catalogue(): string {
  const entries = Object.values(messages).map(({ id, subject, help }) => {
    const about = `Subject: ${subject}\nDefined-By: xNBD\nDocumentation: man:xnbdctl(8)`;
    return `-- ${id}\n${about}\n\n${filled(help, '')}\n`;
  });
  return `# Made from src/log/messages.ts by \`npm run docs\`.\n\n${entries.join('\n')}`;
}

/** Documents that are, or have, a table, as they should be. */
export function writtenDocuments(): { path: string; text: string; upToDate: boolean }[] {
  const text = catalogue();
  const path = join(top, CATALOGUE);
  const upToDate = existsSync(path) && readFileSync(path, 'utf8') === text;
  return [...documentsWithTables(), { path: CATALOGUE, text, upToDate }];
}

function documentsWithTables(): { path: string; text: string; upToDate: boolean }[] {
  return ['docs/reference.md'].map((path) => {
    const before = readFileSync(join(top, path), 'utf8');
    let text = before;
    for (const [name, rows] of Object.entries(tables)) {
      const [open, close] = [`<!-- ${name} -->\n`, `<!-- /${name} -->\n`];
      const [begin, end] = [text.indexOf(open), text.indexOf(close)];
      if (begin === -1 || end < begin)
        throw new Error(`${path}: there is no ${open.trim()} ... ${close.trim()}`);
      const list = rows().map((row) => `${filled(`- ${row}`)}\n`);
      text = `${text.slice(0, begin + open.length)}\n${list.join('')}\n${text.slice(end)}`;
    }
    return { path, text, upToDate: text === before };
  });
}

/** An item of a list, in lines that fit. @param indent of the lines after the first */
function filled(item: string, indent = '  '): string {
  const lines: string[] = [];
  let line = '';
  for (const word of item.split(' ')) {
    const longer = line === '' ? word : `${line} ${word}`;
    if (longer.length <= COLUMNS) {
      line = longer;
      continue;
    }
    lines.push(line);
    line = `${indent}${word}`;
  }
  return [...lines, line].join('\n');
}

if (import.meta.main) {
  for (const { path, text, upToDate } of writtenDocuments()) {
    if (upToDate) continue;
    process.stdout.write(`${path}\n`);
    if (process.argv.includes('--check')) process.exitCode = 1;
    else writeFileSync(join(top, path), text);
  }
}
