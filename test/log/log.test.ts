import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { DgramSocket } from 'node-unix-socket';
import type { LogLevel } from '../../src/log/entry.ts';
import { encodeJournalEntry, maxDatagramLength } from '../../src/log/journal.ts';
import { formatEntry, oneLine, writeLine } from '../../src/log/line.ts';
import { configureLog, log } from '../../src/log/log.ts';
import { startResidentLog } from '../../src/log/resident.ts';

const source = (file: string): string => new URL(`../../src/log/${file}`, import.meta.url).href;

/** stderr of a program of our own that begins with these imports. */
function stderrOf(program: string, environment: NodeJS.ProcessEnv = {}): string {
  const imports = `import { log } from '${source('log.ts')}'; import { startResidentLog } from '${source('resident.ts')}';`;
  const run = spawnSync(process.execPath, ['--input-type=module-typescript', '-e', imports + program], {
    encoding: 'utf8',
    env: { ...process.env, JOURNAL_STREAM: undefined, ...environment },
  });
  assert.equal(run.status, 0, run.stderr);
  return run.stderr;
}

describe('log', () => {
  afterEach(() => configureLog({ level: 'info', sink: writeLine, disk: '' }));

  it('leaves out what is less grave than its level', () => {
    const seen: string[] = [];
    configureLog({ level: 'warning', sink: (level, message) => seen.push(`${level} ${message}`) });
    for (const level of ['debug', 'info', 'warning', 'error'] as const) log[level]('x');
    assert.deepEqual(seen, ['warning x', 'error x']);
  });

  it('names the disk that the process serves in front of each message', () => {
    const seen: string[] = [];
    configureLog({ disk: 'vm1-vda', sink: (_level, message) => seen.push(message) });
    log.info('relocating, generation 2');
    log.error('read failed');
    assert.deepEqual(seen, ['vm1-vda: relocating, generation 2', 'vm1-vda: read failed']);
  });

  it('writes one line with time, level and fields', () => {
    assert.match(
      stderrOf(`log.error('disk gone\\nERROR: forged', { export: 'vm1-vda', why: 'no "room"' });`),
      /^\d{4}-\d\d-\d\dT[\d:.]+Z error: disk gone\\nERROR: forged export=vm1-vda why="no \\"room\\""\n$/,
    );
  });

  it('writes the same from a resident program outside systemd, to the last line before its end', () => {
    const text = stderrOf(`startResidentLog({ identifier: 'xnbdd', level: 'debug' });
      log.debug('first'); log.error('last'); process.exit(0);`);
    assert.match(text, /^\S+ debug: first\n\S+ error: last\n$/);
  });

  it('outlives the reader of its stderr', () => {
    const program = `import { log } from '${source('log.ts')}'; import { writeSync } from 'node:fs';
      for (let i = 0; i < 20_000; i += 1) log.error('x'.repeat(100)); writeSync(1, 'alive');`;
    const command = '{ "$0" --input-type=module-typescript -e "$1" 2>&1 >&3 | true; } 3>&1';
    const run = spawnSync('sh', ['-c', command, process.execPath, program], { encoding: 'utf8' });
    assert.equal(run.stdout, 'alive', run.stderr);
  });
});

describe('oneLine', () => {
  it('holds no control, line-breaking or direction-changing character, whatever it is given', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        assert.doesNotMatch(oneLine(text), /[\p{Cc}\p{Zl}\p{Zp}\u202A-\u202E\u2066-\u2069]/u);
      }),
    );
    assert.equal(oneLine('a\x1b[2J\u202eb\n'), 'a\\u{1b}[2J\\u{202e}b\\n');
  });
  it('leaves ordinary text alone and cuts what has no end', () => {
    assert.equal(oneLine('Grüße, 世界 😀 "quoted"'), 'Grüße, 世界 😀 "quoted"');
    assert.ok(oneLine('x'.repeat(1_000_000)).length < 33_000);
    assert.ok(formatEntry('x', { y: 'z'.repeat(1_000_000) }).length < 33_000);
  });
});

describe('journal', () => {
  it('has the message, the syslog priority and the fields under their names', () => {
    const entry = encodeJournalEntry('xnbdd', 'warning', 'two\nlines', {
      export: 'vm1-vda',
      domainUuid: 'u',
      domain: 'vm1',
      message: 'forged',
      'not a name': 'x',
    });
    assert.equal(
      entry.toString(),
      `MESSAGE=two\\nlines\nPRIORITY=4\nSYSLOG_IDENTIFIER=xnbdd\nSYSLOG_PID=${process.pid}\n` +
        'XNBD_EXPORT=vm1-vda\nDOMAIN_UUID=u\nDOMAIN_NAME=vm1\n',
    );
  });

  it('never makes a datagram that is too long, nor loses the message', () => {
    const fields = Object.fromEntries(
      Array.from({ length: 50 }, (_, index) => [`f${index}`, '世'.repeat(40_000)]),
    );
    const entry = encodeJournalEntry('xnbdd', 'error', '😀'.repeat(40_000), fields);
    assert.ok(entry.length <= maxDatagramLength, `${entry.length}`);
    assert.ok(/^MESSAGE=😀+\.\.\. \(80000 characters\)\nPRIORITY=3\n/u.test(entry.toString()));
  });

  it('reaches a journal socket, and stderr while there is none', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'xnbd-log-'));
    const path = join(directory, 'journal');
    const journal = new DgramSocket();
    const entries: string[] = [];
    const arrived = new Promise<void>((resolve) => {
      journal.on('data', (data: Buffer) => {
        entries.push(data.toString());
        if (entries.length === 4) resolve();
      });
    });
    journal.bind(path);
    const stop = startResidentLog({ identifier: 'xnbd-test', level: 'debug', journalPath: path });
    try {
      const levels: LogLevel[] = ['debug', 'info', 'warning', 'error'];
      for (const level of levels) log[level](`at ${level}`, { export: 'd' });
      await arrived;
      assert.deepEqual(
        entries.map((entry) =>
          /^MESSAGE=at (\w+)\nPRIORITY=(\d)\n[\s\S]*\nXNBD_EXPORT=d\n$/.exec(entry)?.slice(1),
        ),
        [
          ['debug', '7'],
          ['info', '6'],
          ['warning', '4'],
          ['error', '3'],
        ],
      );
    } finally {
      stop();
      journal.close();
      await rm(directory, { recursive: true });
    }
    const text =
      stderrOf(`startResidentLog({ identifier: 'x', level: 'info', journalPath: '/nowhere/journal' });
      log.info('heard anyway'); process.exit(0);`);
    assert.match(text, /^\S+ info: heard anyway\n$/);
  });
});
