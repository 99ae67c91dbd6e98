"""Chat templates of strangers: those that would take gigabytes, never end, or leave the sandbox."""

# ruff: noqa: E501  # a template is one line
from __future__ import annotations

BIG = "{% set b = 'x' * 8000000 %}"
GROWS = "{{% set n = namespace(x={}) %}}{{% for i in range(99999) %}}{{% set n.x = {} %}}{{% endfor %}}x"
NESTED = "{{% for i in range(99999) %}}{{% for j in range(99999) %}}{}{{% endfor %}}{{% endfor %}}"

LARGE = (
    "{{ 'x' * 10**9 }}", "{{ 10**9 * 'x' }}", "{{ 'x' * 10**6 * 10**4 }}", "{{ 9**(10**8) }}",
    "{{ [0] * 10**9 }}", "{{ 'x'|center(10**9) }}", "{{ 'x'.center(10**9) }}",
    "{{ 'x'.ljust(10**9) }}", "{{ 'x'.rjust(10**9) }}", "{{ 'x'.zfill(10**9) }}",
    "{{ 'x'.encode().ljust(10**9) }}", "{{ (1).to_bytes(10**9, 'big') }}",
    "{{ '%1000000000d' % 1 }}", "{{ '%*d' % (10**9, 1) }}", "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}", "{{ '{:{}}'.format(1, 10**9) }}",
    "{{ '{x:{y}}'.format_map({'x': 1, 'y': 10**9}) }}", "{{ '{0:{1[w]}}'.format(1, {'w': 10**9}) }}",
    "{{ range(10**9)|list }}", "{{ [range(99999)|list] * 1000 }}", "{{ lipsum(n=10**6) }}",
    "{{ [1]|batch(10**9, 'x')|list }}", "{{ [1]|slice(10**9)|list }}",
    "{{ 'a\nb'|indent(10**9) }}", "{{ ('a\n' * 1000000)|indent(1000) }}",
    "{{ [1]|tojson(indent=10**9) }}", "{{ ['x']|map('center', 10**9)|list }}",
    "{{ ('\t' * 1000000).expandtabs(1000) }}", "{{ 1e308|round(10**7, 'ceil') }}",
    "{{ ('a ' * 100000)|wordwrap(1, wrapstring='y' * 100000) }}",
    "{{ ('http://a.b ' * 100000)|urlize(rel='y' * 100000) }}",
    "{{ ('x' * 1000000).translate({120: 'y' * 1000000}) }}", "{{ ('a,' * 8000000).split(',') }}",
    "{{ ('a ' * 8000000).split() }}", "{{ ('a,' * 1500000).split(',')|length }}", "{{ ('a,' * 8000000).rsplit(sep=',', maxsplit=9000000) }}",
    "{{ ('ab,' * 5000000).split(',') }}", "{{ ('ab\n' * 5000000).splitlines() }}",
    "{{ ('x' * 16000000)|list|length }}", "{{ ('x' * 16000000)|sort }}",
    *(BIG + rest for rest in (
        "{{ [b] * 1000 }}", "{{ ([b] * 1000)|string }}", "{{ ([b] * 1000)|tojson }}",
        "{{ ([b] * 1000)|join }}", "{{ b.join(['a'] * 1000) }}", "{{ ''.join([b] * 1000) }}",
        "{{ b|replace('x', b) }}", "{{ b.replace('x', b) }}", "{{ b.replace('', b) }}",
        "{{ b ~ b ~ b ~ b }}", "{{ b + b + b }}", "{{ '%s' * 100 % ((b,) * 100) }}",
        "{{ ('{0}' * 1000).format(b) }}",
    )),
    GROWS.format("'aaaaaaaa'", "n.x ~ n.x"), GROWS.format("'aaaaaaaa'", "n.x + n.x"),
    GROWS.format("['aaaaaaaa']", "n.x + n.x"), GROWS.format("7", "n.x * n.x"),
    GROWS.format("[]", "[n.x, 'y' * 8000000]"), GROWS.format("[]", "[n.x, ['y'] * 1000000]"),
    NESTED.format("x" * 64), "{% set t %}" + NESTED.format("x" * 64) + "{% endset %}{{ t }}",
    "{% macro m() %}" + NESTED.format("{{ 'y' * 1000000 }}") + "{% endmacro %}{{ m() }}",
    "{% set n = namespace(x=[7]) %}{% for i in range(100) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{{ n.x }}",
)  # fmt: skip
"""Each takes a gigabyte or more where nothing bounds it, or as many hours as that takes to make."""

OUTSIDE = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('touch PLACE').read() }}",
    "{{ self|attr('_Template' ~ 'Reference__context') }}", "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}", "{{ ''|attr('__class__') }}",
    "{{ '{0.__class__.__mro__}'.format('') }}", "{{ '{x.__init__}'.format_map({'x': messages}) }}",
    "{{ raise_exception.__globals__ }}", "{{ namespace(__class__=1) }}", "{{ messages.append(1) }}",
    "{{ namespace.__init__.__globals__ }}", "{{ joiner.__init__.__globals__['os'] }}",
    "{{ strftime_now.__globals__ }}", "{{ dict.__base__ }}",
    "{% set x = messages|map(attribute='__class__')|list %}{{ x[0].__mro__ }}",
)  # fmt: skip
"""Ways out of the sandbox: each is refused, or makes text of nothing."""

DEEP = (
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
    "{{ " + "[" * 3000 + "]" * 3000 + " }}", "{% if 1 %}" * 3000 + "{% endif %}" * 3000, "{% for",
    "{{ raise_exception('x' * 5000000) }}", "{{ 1 / 0 }}", "{{ {}[messages] }}",
)  # fmt: skip
"""Those that are no templates, or raise."""

FAIR = (
    "{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] + '\n' }}{% endfor %}",
    "{{ messages|map(attribute='content')|join(', ') }}{{ messages|tojson(indent=2) }}",
    "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x * 2 + 1 %}{% endfor %}{{ n.x }}",
    "{{ 'x' * 3 }}{{ [1, 2] + [3] }}{{ '%05d|%s' % (7, 'a') }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ -2 * 'x' }}o",
    "{{ '%s-%s'|format('a', 1) }}{{ '{:>6}|{x}'.format(1, x='y') }}{{ 'a b'.split()|last|upper }}",
    "{{ 'x'.center(9) }}{{ 'x'|center(9) }}{{ 'a\nb'|indent(2, true) }}{{ ', '.join(['a', 'b']) }}",
    "{{ 'aXbX'.replace('X', '--') }}{{ 'aXbX'|replace('X', '', 1) }}{{ (1, 'a', [2.5, none])|string }}",
    "{{ [3, 1]|sort|join }}{{ messages|length }}{{ messages[0].content|trim|title|e }}",
    "{% for row in [1, 2, 3]|batch(2, 0) %}{{ row }}{% endfor %}{{ [1, 2, 3]|slice(2)|list }}",
    "{% for m in messages|selectattr('role', 'equalto', 'user') %}{{ loop.index }}{{ loop.last }}{% endfor %}",
    "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}{% set t %}a{{ 1 }}{% endset %}{{ t ~ f(2) ~ none }}",
    "{{ {'a': [1, {'b': 2}]}|tojson }}{{ 'é𝄞'|tojson }}{{ dict(a=1).items()|list }}{{ 3.14159|round(2) }}",
    "{{ 'a  b'|wordwrap(2) }}{{ {'a': 'b'}|xmlattr }}{{ 'x y'|urlencode }}{{ 'abc'|truncate(2, true, '') }}",
)  # fmt: skip
"""Those that are as good with bounds as without."""
