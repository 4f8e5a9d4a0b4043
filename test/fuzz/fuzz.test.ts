/**
 * What fuzzing found once stays found; and a short run of it with every test run. The long one is `npm run
 * fuzz`.
 */
import { strict as assert } from 'node:assert';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeLine } from '../../src/log/line.ts';
import { configureLog } from '../../src/log/log.ts';
import { formatCase, makeCase, parseCase, runCase } from './case.ts';
import { runClient, underWay } from './client.ts';
import { seeds } from './seeds.ts';
import { runServer } from './server.ts';

const corpus = join(import.meta.dirname, 'corpus');

describe('fuzzing', function () {
  this.timeout(60_000);

  after(() => configureLog({ sink: writeLine }));

  it('begins with dialogues that are understood to their end', async () => {
    for (const { side, messages } of seeds()) {
      if (side === 'server') {
        const sent = await runServer(messages);
        assert.ok(sent.length > 6000, `the server answers with ${sent.length} bytes`);
      } else {
        const answered = runClient(messages, true);
        assert.ok(answered >= underWay.length - 1, `${answered} requests of the client are answered`);
      }
    }
  });

  it('makes the same case of the same number, and reads what it writes', () => {
    for (let seed = 0; seed < 50; seed++) {
      const made = makeCase(seed);
      const filled = made.pieces.filter((piece) => piece.length > 0);
      assert.deepEqual(makeCase(seed), made);
      const { side, pieces } = parseCase(formatCase(made));
      assert.deepEqual(
        { side, pieces: pieces.filter((piece) => piece.length > 0) },
        { side: made.side, pieces: filled },
      );
    }
  });

  for (const file of readdirSync(corpus)
    .filter((name) => name.endsWith('.txt'))
    .sort()) {
    it(`corpus: ${file}`, () => runCase(parseCase(readFileSync(join(corpus, file), 'utf8'))));
  }

  it('finds nothing in two thousand cases', async () => {
    const first = Math.floor(Math.random() * 2 ** 32);
    for (let count = 0; count < 2000; count++) {
      const seed = (first + count) >>> 0;
      await runCase(makeCase(seed)).catch((error: unknown) => {
        throw new Error(
          `seed ${seed} (npm run fuzz -- --seed ${seed} keeps it): ${String((error as Error).stack)}`,
        );
      });
    }
  });
});
