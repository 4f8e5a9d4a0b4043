/** The difference of two texts as `diff -u` shows it. */

/** Lines before and after a change. */
const context = 3;

interface Line {
  sign: ' ' | '-' | '+';
  text: string;
}

/**
 * Empty for equal texts. The work grows with the square of the part that differs: meant for a domain's XML.
 */
export function unifiedDiff(before: string, after: string, label: string): string {
  if (before === after) return '';
  const lines = compare(before.split('\n'), after.split('\n'));
  const changed = lines.flatMap(({ sign }, index) => (sign === ' ' ? [] : [index]));
  const hunks: { from: number; to: number }[] = [];
  for (const index of changed) {
    const last = hunks.at(-1);
    const from = Math.max(0, index - context);
    const to = Math.min(lines.length, index + context + 1);
    if (last !== undefined && from <= last.to) last.to = to;
    else hunks.push({ from, to });
  }
  const text = hunks.map(({ from, to }) => {
    const hunk = lines.slice(from, to);
    const range = (other: '-' | '+'): string => {
      const start = lines.slice(0, from).filter(({ sign }) => sign !== other).length + 1;
      return `${start},${hunk.filter(({ sign }) => sign !== other).length}`;
    };
    return `@@ -${range('+')} +${range('-')} @@\n${hunk.map(({ sign, text }) => sign + text).join('\n')}`;
  });
  return `--- ${label}\n+++ ${label}, new\n${text.join('\n')}\n`;
}

/** Both texts as one list, by their longest common subsequence. */
function compare(before: readonly string[], after: readonly string[]): Line[] {
  let head = 0;
  while (head < Math.min(before.length, after.length) && before[head] === after[head]) head += 1;
  let tail = 0;
  const shorter = Math.min(before.length, after.length) - head;
  while (tail < shorter && before.at(-1 - tail) === after.at(-1 - tail)) tail += 1;
  const equal = (lines: readonly string[]): Line[] => lines.map((text) => ({ sign: ' ', text }));
  return [
    ...equal(before.slice(0, head)),
    ...compareMiddle(before.slice(head, before.length - tail), after.slice(head, after.length - tail)),
    ...equal(before.slice(before.length - tail)),
  ];
}

function compareMiddle(before: readonly string[], after: readonly string[]): Line[] {
  // common[i][j]: length of the longest common subsequence of before from i on and after from j on.
  const common = Array.from({ length: before.length + 1 }, () => new Uint32Array(after.length + 1));
  for (let i = before.length - 1; i >= 0; i -= 1) {
    for (let j = after.length - 1; j >= 0; j -= 1) {
      common[i]![j] =
        before[i] === after[j]
          ? common[i + 1]![j + 1]! + 1
          : Math.max(common[i + 1]![j]!, common[i]![j + 1]!);
    }
  }
  const lines: Line[] = [];
  let [i, j] = [0, 0];
  while (i < before.length || j < after.length) {
    if (i < before.length && j < after.length && before[i] === after[j]) {
      lines.push({ sign: ' ', text: before[i]! });
      i += 1;
      j += 1;
    } else if (i < before.length && (j === after.length || common[i + 1]![j]! >= common[i]![j + 1]!)) {
      lines.push({ sign: '-', text: before[i]! });
      i += 1;
    } else {
      lines.push({ sign: '+', text: after[j]! });
      j += 1;
    }
  }
  return lines;
}
