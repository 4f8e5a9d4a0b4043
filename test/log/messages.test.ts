/** The table of messages: each has an identity of its own, is said somewhere, and is explained by the catalogue. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, globSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { messages } from '../../src/log/messages.ts';
import { installed } from '../lab/installed.ts';
import { temporaryDirectory } from '../lab/temporary-directory.ts';

const top = join(import.meta.dirname, '../..');
const catalogue = join(top, 'packaging/journal/xnbd.catalog');

describe('the messages of the journal', () => {
  const rows = Object.entries(messages);

  it('have an identity each, of 128 bits', () => {
    for (const [name, { id }] of rows) assert.match(id, /^[0-9a-f]{32}$/, name);
    assert.equal(new Set(rows.map(([, { id }]) => id)).size, rows.length);
  });

  it('are each said somewhere', () => {
    const source = globSync('src/**/*.ts', { cwd: top })
      .map((path) => readFileSync(join(top, path), 'utf8'))
      .join('\n');
    const unsaid = rows.map(([name]) => name).filter((name) => !source.includes(`id: '${name}'`));
    assert.deepEqual(unsaid, []);
  });

  it('name in their explanations only fields that entries have', () => {
    const fields = ['XNBD_EXPORT', 'XNBD_PEER', 'XNBD_STATE', 'DOMAIN_NAME', 'DOMAIN_UUID'];
    for (const [name, { help }] of rows)
      for (const [, field] of help.matchAll(/@(\w+)@/g))
        assert.ok(fields.includes(field!), `${name}: @${field}@`);
  });

  it('are in a catalogue that journalctl takes', async function () {
    if (!installed('journalctl')) this.skip();
    const directory = await temporaryDirectory();
    const { path } = directory;
    mkdirSync(join(path, 'usr/lib/systemd/catalog'), { recursive: true });
    mkdirSync(join(path, 'var/lib/systemd/catalog'), { recursive: true });
    copyFileSync(catalogue, join(path, 'usr/lib/systemd/catalog/xnbd.catalog'));
    const run = (...args: string[]) =>
      execFileSync('journalctl', [`--root=${path}`, ...args], { stdio: 'pipe' }).toString();
    run('--update-catalog');
    const listed = run('--list-catalog');
    for (const [name, { id, subject }] of rows) assert.ok(listed.includes(`${id} xNBD: ${subject}`), name);
    await directory.remove();
  });
});
