/**
 * Completion for bash and zsh, made from the command lines themselves: a new command or option is in it by itself.
 * Both shells walk over the words before the cursor, find the longest command among them, count what is no option
 * behind it, and ask for the words that may stand there.
 */
import type { Argument, Command } from 'commander';
import { program as xnbdExport } from '../../src/bin/xnbd-export.ts';
import { diskRows } from '../../src/config/settings.ts';
import { program as xnbdctl } from '../../src/xnbdctl/program.ts';
import type { HostFile } from './host-file.ts';

/** What stands for an argument, by its name on the command line: words of the shell. */
const argumentWords: Readonly<Record<string, string>> = {
  name: `$(xnbdctl list 2>/dev/null | awk 'NR > 1 { print $1 }')`,
  domain: '$(virsh list --all --name 2>/dev/null)',
  key: diskRows
    .filter(([, { changeable }]) => (changeable as boolean | undefined) === true)
    .map(([key]) => key)
    .join(' '),
  value: 'default none',
  seconds: 'default none',
};

interface Place {
  /** Words of the command line so far, such as `pki check`. */
  readonly path: string;
  readonly commands: readonly string[];
  readonly options: readonly string[];
  readonly arguments: readonly Argument[];
}

export function completionFiles(): HostFile[] {
  return [xnbdctl(), xnbdExport].flatMap((program) => {
    const name = program.name();
    return [
      {
        to: `/usr/share/bash-completion/completions/${name}`,
        mode: 0o644,
        from: { text: bash(program) },
      },
      { to: `/usr/share/zsh/vendor-completions/_${name}`, mode: 0o644, from: { text: zsh(program) } },
    ];
  });
}

function places(command: Command, path = ''): Place[] {
  const inside = command.commands.map((each) => ({
    each,
    path: path === '' ? each.name() : `${path} ${each.name()}`,
  }));
  return [
    {
      path,
      commands: command.commands.map((each) => each.name()),
      options: [...command.options.map(({ long }) => long ?? ''), '--help'],
      arguments: command.registeredArguments,
    },
    ...inside.flatMap(({ each, path: deeper }) => places(each, deeper)),
  ];
}

/** Options with a value, of all commands: a file, or one of these words. */
function valued(command: Command): { flag: string; words: readonly string[] | null }[] {
  const own = command.options
    .filter(({ required, long }) => required && typeof long === 'string')
    .map(({ long, argChoices, flags }) => ({
      flag: long!,
      words: argChoices ?? (/<(file|path|dir)>/.test(flags) ? null : []),
    }));
  const all = [...own, ...command.commands.flatMap(valued)];
  return all.filter(({ flag }, at) => all.findIndex((each) => each.flag === flag) === at);
}

/** The walk, which bash and zsh write alike. `words[@]` are those before the cursor, without the program. */
function walk(program: Command): string {
  const flags = valued(program).map(({ flag }) => flag);
  const paths = places(program)
    .map(({ path }) => path)
    .filter((path) => path !== '');
  return `  local command='' count=0 skip='' word
  for word in "\${before[@]}"; do
    if [[ -n $skip ]]; then skip=''; continue; fi
    case $word in
      ${flags.join('|')}) skip=yes; continue ;;
      -*) continue ;;
    esac
    case "\${command:+$command }$word" in
      ${paths.map((path) => `'${path}'`).join('|')}) command="\${command:+$command }$word" ;;
      *) count=$((count + 1)) ;;
    esac
  done
  local here='' options=''
  case $command in
${places(program).map(placeCase).join('\n')}
  esac`;
}

function placeCase({ path, commands, options, arguments: args }: Place): string {
  const last = args.at(-1);
  const counted = args.map((argument, at) => {
    const words = argumentWords[argument.name()] ?? '';
    const pattern = argument === last && argument.variadic ? '*' : String(at);
    return `${pattern}) here="${words}" ;;`;
  });
  const inside = commands.length > 0 ? [`here='${commands.join(' ')}'`] : [];
  const asked = counted.length > 0 ? [`case $count in ${counted.join(' ')} esac`] : [];
  return `    '${path}') options='${options.join(' ')}'${[...inside, ...asked].map((each) => `; ${each}`).join('')} ;;`;
}

function valueCases(program: Command, files: string, words: (list: string) => string): string {
  const withFile = valued(program).filter((each) => each.words === null);
  const withWords = valued(program).filter((each) => each.words !== null);
  return [
    ...(withFile.length > 0
      ? [`    ${withFile.map(({ flag }) => flag).join('|')}) ${files}; return ;;`]
      : []),
    ...withWords.map((each) => `    ${each.flag}) ${words(each.words!.join(' '))}; return ;;`),
  ].join('\n');
}

function bash(program: Command): string {
  const name = program.name();
  const reply = (list: string): string => `mapfile -t COMPREPLY < <(compgen -W "${list}" -- "$cur")`;
  return `# bash completion for ${name}(8)
_${name.replace('-', '_')}() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]}
  local before=("\${COMP_WORDS[@]:1:COMP_CWORD-1}")
  case $prev in
${valueCases(program, 'mapfile -t COMPREPLY < <(compgen -f -- "$cur")', reply)}
  esac
${walk(program)}
  if [[ $cur == -* ]]; then here=$options; fi
  ${reply('$here')}
}
complete -F _${name.replace('-', '_')} ${name}
`;
}

function zsh(program: Command): string {
  const reply = (list: string): string => `compadd -- ${list}`;
  return `#compdef ${program.name()}
# zsh completion for ${program.name()}(8)
_${program.name().replace('-', '_')}() {
  local cur=\${words[CURRENT]} prev=\${words[CURRENT - 1]}
  local -a before=("\${(@)words[2,CURRENT-1]}")
  case $prev in
${valueCases(program, '_files', reply)}
  esac
${walk(program)}
  if [[ $cur == -* ]]; then here=$options; fi
  compadd -- \${=here}
}
_${program.name().replace('-', '_')} "$@"
`;
}
