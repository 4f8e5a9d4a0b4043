/**
 * Manual pages: texts of packaging/man/, in which a line `@NAME@` stands for what follows from a table or from the
 * command line itself.
 */
import { globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Command } from 'commander';
import { program as xnbdExport } from '../../src/bin/xnbd-export.ts';
import { type DiskSetting, relocationRows } from '../../src/config/settings.ts';
import { program as xnbdctl } from '../../src/xnbdctl/program.ts';
import type { HostFile } from './host-file.ts';
import { top } from './host-files.ts';
import type { Description } from './package.ts';
import { compressed } from './papers.ts';

/** What the pages know besides their own words; a line each. */
const parts: Readonly<Record<string, () => string[]>> = {
  'xnbdctl-options': () => optionItems(xnbdctl()),
  'xnbdctl-commands': () => commandItems(xnbdctl(), 'xnbdctl'),
  'xnbd-export-commands': () => commandItems(xnbdExport, 'xnbd-export'),
  relocation: () =>
    relocationRows.flatMap(([name, row]) => {
      const { default: otherwise, help, allowed } = row;
      const { changeable = false } = row as Partial<DiskSetting<unknown>>;
      const change = changeable ? ' \\fBxnbdctl set\\fR changes it for one disk.' : '';
      return item(`\\fB${escaped(name)}\\fR = \\fI${escaped(otherwise)}\\fR`, [
        `${escaped(sentence(help))} Allowed is ${escaped(allowed)}.${change}`,
      ]);
    }),
};

export function manualFiles({ version, epoch }: Description): HostFile[] {
  const date = new Date(epoch * 1000).toISOString().slice(0, 10);
  return globSync('packaging/man/*.[1-8]', { cwd: top }).map((path) => {
    const name = basename(path);
    const text = filledPage(readFileSync(join(top, path), 'utf8'), path)
      .replaceAll('@DATE@', date)
      .replaceAll('@VERSION@', version);
    return {
      to: `/usr/share/man/man${name.at(-1)}/${name}.gz`,
      mode: 0o644,
      from: { text: compressed(text) },
    };
  });
}

/** @throws Error naming a part that there is not. */
function filledPage(text: string, path: string): string {
  return text.replaceAll(/^@([a-z-]+)@$/gm, (_all, name: string) => {
    const part = parts[name];
    if (part === undefined) throw new Error(`${path}: there is no part ${name}`);
    return part().join('\n');
  });
}

/** Every command that does something, with its arguments and options. */
function commandItems(command: Command, path: string): string[] {
  return command.commands.flatMap((each) => {
    const words = `${path} ${each.name()}`;
    if (each.commands.length > 0) return commandItems(each, words);
    const args = each.registeredArguments.map((argument) => {
      const name = `\\fI${escaped(argument.name().toUpperCase())}\\fR${argument.variadic ? '...' : ''}`;
      return argument.required ? name : `[${name}]`;
    });
    const options = optionItems(each);
    return [
      ...item(
        [`\\fB${escaped(words)}\\fR`, ...args, ...(options.length > 0 ? ['[options]'] : [])].join(' '),
        [escaped(sentence(each.description()))],
      ),
      ...(options.length > 0 ? ['.RS', ...options, '.RE'] : []),
    ];
  });
}

function optionItems(command: Command): string[] {
  return command.options
    .filter(({ hidden }) => !hidden)
    .flatMap(({ flags, description, argChoices, mandatory, defaultValue }) =>
      item(`\\fB${escaped(flags)}\\fR`, [
        [
          escaped(sentence(description)),
          ...(mandatory ? ['Has to be given.'] : []),
          ...(argChoices ? [`One of ${escaped(argChoices.join(', '))}.`] : []),
          ...(typeof defaultValue === 'string' ? [`Default: ${escaped(defaultValue)}.`] : []),
        ].join(' '),
      ]),
    );
}

function item(head: string, lines: readonly string[]): string[] {
  return ['.TP', head, ...lines];
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, '')}.`;
}

/** As roff takes it: code is bold, a hyphen is a minus that can be typed, and no line begins with a request. */
function escaped(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/`([^`]+)`/g, '\\fB$1\\fR')
    .replace(/^[.']/, '\\&$&');
}
