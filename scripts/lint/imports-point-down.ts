/**
 * The lint rule that keeps the walls of walls.ts: an import goes to a lower floor, or stays within its
 * folder.
 */
import { dirname, join, relative, resolve } from 'node:path';
import type { Rule } from 'eslint';
import { floors, nevers, only } from './walls.ts';

const top = join(import.meta.dirname, '../..');

/** @param from, to paths below the repository's top. @returns why that import is not allowed */
export function importFault(from: string, to: string): string | undefined {
  for (const [room, below] of nevers)
    if (from.startsWith(`${room}/`) && to.startsWith(`${below}/`)) return `${room} never imports ${below}`;
  const within = Object.keys(only).filter((room) => from.startsWith(`${room}/`));
  const room = within.sort((a, b) => b.length - a.length)[0];
  if (
    room !== undefined &&
    to.includes('/') &&
    ![room, ...only[room]!].some((allowed) => to.startsWith(`${allowed}/`))
  )
    return `${room} imports only ${only[room]!.join(' and ') || 'itself'} besides packages`;
  for (const [folder, list] of Object.entries(floors)) {
    if (!from.startsWith(`${folder}/`) || !to.startsWith(`${folder}/`)) continue;
    const [above, below] = [from, to].map((path) => path.slice(folder.length + 1).split('/')[0]!);
    if (above === below) continue;
    for (const name of [above!, below!])
      if (floorOf(list, name) === -1) return `${folder}/${name} has no floor in scripts/lint/walls.ts`;
    if (floorOf(list, above!) >= floorOf(list, below!))
      return `${folder}/${above} does not lie above ${folder}/${below}: imports point down only`;
  }
  return undefined;
}

function floorOf(list: readonly (readonly string[])[], name: string): number {
  return list.findIndex((floor) => floor.includes(name));
}

export const importsPointDown: Rule.RuleModule = {
  meta: { type: 'problem', schema: [] },
  create(context) {
    const from = relative(top, context.filename);
    return {
      ImportDeclaration(node) {
        const source = String(node.source.value);
        if (!source.startsWith('.')) return;
        const fault = importFault(from, relative(top, resolve(dirname(context.filename), source)));
        if (fault !== undefined) context.report({ node, message: fault });
      },
    };
  },
};
