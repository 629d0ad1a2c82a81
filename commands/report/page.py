"""The HTML page of an evaluation report: one file, no script, no outside resource."""

PLOT = """{% macro xy(plot) %}
<figure><figcaption>{{ plot.title }}{% if plot.note %} <span class="soft">({{ plot.note }})</span>{% endif
 %}</figcaption>
<svg viewBox="0 0 {{ plot.width }} {{ plot.height }}" role="img" aria-label="{{ plot.title }} by {{ plot.x_title }}">
{% for tick in plot.y_ticks %}
<line x1="62" x2="{{ plot.width - 24 }}" y1="{{ tick.at }}" y2="{{ tick.at }}" stroke="#e8ebee"/>
<text x="54" y="{{ tick.at + 4 }}" text-anchor="end" fill="#656d76">{{ tick.text }}</text>
{% endfor %}
{% for tick in plot.x_ticks %}
<line x1="{{ tick.at }}" x2="{{ tick.at }}" y1="12" y2="{{ plot.height - 44 }}" stroke="#e8ebee"/>
<text x="{{ tick.at }}" y="{{ plot.height - 28 }}" text-anchor="middle" fill="#656d76">{{ tick.text }}</text>
{% endfor %}
<text x="{{ (plot.width + 38) / 2 }}" y="{{ plot.height - 8 }}" text-anchor="middle" fill="#656d76">{{ plot.x_title
 }}</text>
{% if plot.band %}
<polygon points="{{ plot.band }}" fill="#8b949e" fill-opacity="0.15"/>
{% endif %}
{% for line in plot.lines %}
<polyline points="{{ line.points }}" fill="none" stroke="{{ line.colour }}" stroke-width="1.8"
 stroke-dasharray="{{ line.dash }}"/>
{% endfor %}
{% for dot in plot.dots %}
{% if dot.low is not none %}
<line x1="{{ dot.x }}" x2="{{ dot.x }}" y1="{{ dot.low }}" y2="{{ dot.high }}" stroke="{{ dot.colour }}"
 stroke-width="2"/>
{% endif %}
<circle cx="{{ dot.x }}" cy="{{ dot.y }}" r="4.4" fill="{{ dot.colour }}"/>
<text x="{{ dot.x - 9 if dot.before else dot.x + 9 }}" y="{{ dot.y + 16 if dot.below else dot.y - 7 }}"
 text-anchor="{{ "end" if dot.before else "start" }}" fill="#1f2328">{{ dot.label }}</text>
{% endfor %}
</svg></figure>
{% endmacro %}
"""
PAGE = (
    PLOT
    + """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Evaluation: {{ runs | map(attribute="label") | join(", ") }}</title>
<style>
:root { --ink: #1f2328; --soft: #656d76; --line: #d9dee3; --wash: #f6f8fa; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 40px 28px 60px; color: var(--ink); background: #fff;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 27px; font-weight: 650; letter-spacing: -0.01em; margin: 0 0 4px; }
h2 { font-size: 18px; font-weight: 650; margin: 42px 0 10px; }
p { margin: 6px 0; max-width: 76ch; }
.soft { color: var(--soft); }
.warning { border-left: 3px solid #e69f00; background: #fff8e6; padding: 8px 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-weight: 600; text-align: right; vertical-align: bottom; padding: 8px 14px; overflow-wrap: anywhere;
  border-bottom: 2px solid var(--line); }
td { text-align: right; vertical-align: top; padding: 9px 14px; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 250px; }
td small { display: block; color: var(--soft); font-size: 12.5px; line-height: 1.4; }
td.floor { color: var(--soft); }
b { font-weight: 700; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 7px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 18px 36px; }
figure { margin: 0; }
figcaption { font-weight: 600; font-size: 14px; }
svg { width: 100%; max-width: 540px; height: auto; font-size: 11.5px; font-variant-numeric: tabular-nums; }
img { width: 100%; border: 1px solid var(--line); border-radius: 6px; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--wash); border-radius: 6px; padding: 12px 14px; overflow-x: auto; margin: 8px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 6px 0 22px; font-size: 13.5px; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 620px) { .plots { grid-template-columns: 1fr; } body { padding: 20px 14px; } }
</style>
</head>
<body>
<h1>Evaluation</h1>
<p class="soft">{{ runs | length }} run{{ "s" if runs | length > 1 }} on {{ runs[0].device }}.
{% if runs | length > 1 %}The best value is bold.{% endif %}</p>
{% if not same_data %}
<p class="warning">The runs were measured on different data, so their columns do not compare.</p>
{% endif %}

<div class="scroll"><table>
<thead><tr><th>Metric</th>
{% for run in runs %}<th><span class="dot" style="background:{{ run.colour }}"></span>{{ run.label }}</th>{% endfor %}
{% if floors %}<th>floor</th>{% endif %}</tr></thead>
<tbody>
{% for row in rows %}
<tr><td title="{{ row.name }}">{{ row.title }}{{ row.arrow }}<small>{{ row.note }}</small></td>
{% for cell in row.cells %}
<td>{% if cell.best %}<b>{{ cell.text }}</b>{% else %}{{ cell.text }}{% endif %}<small>{{ cell.interval }}</small></td>
{% endfor %}
{% if floors %}<td class="floor">{{ row.floor_text }}</td>{% endif %}</tr>
{% endfor %}
</tbody></table></div>
<p class="soft">↓ lower is better, ↑ higher. Small print under a value: its 95 % interval over test samples, rows or
probes, taken as independent. That of a distance between sets of images is of its mean over other samples, as many as
here: what the number of samples adds to a distance is in both of its ends.
{% if floors %}The floor is the same distance between two halves of the true draws: what a perfect sampler scores on
average on this many samples.{% endif %}</p>

<h2>Values with their 95 % intervals</h2>
<div class="plots">
{% for plot in plots %}
<figure><figcaption>{{ rows[loop.index0].title }}{{ rows[loop.index0].arrow }}</figcaption>
<svg viewBox="0 0 {{ plot.width }} {{ plot.height }}" role="img" aria-label="{{ rows[loop.index0].title }}">
{% for tick in plot.ticks %}
<line x1="{{ tick.x }}" x2="{{ tick.x }}" y1="4" y2="{{ plot.height - 24 }}" stroke="#e8ebee"/>
<text x="{{ tick.x }}" y="{{ plot.height - 9 }}" text-anchor="middle" fill="#656d76">{{ tick.text }}</text>
{% endfor %}
{% if plot.floor is not none %}
<line x1="{{ plot.floor }}" x2="{{ plot.floor }}" y1="4" y2="{{ plot.height - 24 }}" stroke="#8b949e"
 stroke-dasharray="4 3"><title>floor</title></line>
{% endif %}
{% for dot in plot.dots %}
<text x="178" y="{{ dot.y + 4 }}" text-anchor="end" fill="#1f2328">{{ dot.label }}</text>
{% if dot.low is not none %}
<line x1="{{ dot.low }}" x2="{{ dot.high }}" y1="{{ dot.y }}" y2="{{ dot.y }}"
 stroke="{{ dot.colour }}" stroke-width="2.2"/>
{% endif %}
{% if dot.value is not none %}
<circle cx="{{ dot.value }}" cy="{{ dot.y }}" r="4.4" fill="{{ dot.colour }}"/>
{% endif %}
{% endfor %}
</svg></figure>
{% endfor %}
</div>
<p class="soft">{% if floors %}Dashed: the floor. {% endif %}Where intervals overlap, the order may be chance.</p>


{% if curves %}
<h2>Along the steps</h2>
<div class="plots">{% for plot in curves %}{{ xy(plot) }}{% endfor %}</div>
{% endif %}

{% if trade_offs %}
<h2>Quality against its cost</h2>
<div class="plots">{% for plot in trade_offs %}{{ xy(plot) }}{% endfor %}</div>
<p class="soft">Dashed: the Pareto front, the runs that no other beats in both; grey: its 95 % intervals.</p>
{% endif %}

{% for run in runs if run.picture %}
<h2>Samples: {{ run.label }}</h2>
<img src="data:image/png;base64,{{ run.picture }}" alt="Samples of {{ run.label }}">
{% endfor %}

{% if protocols %}
<h2>How each number was taken</h2>
<dl>
{% for entry in protocols %}
<dt>{{ entry.metric }}</dt><dd>{% if entry.runs %}<b>{{ entry.runs }}</b>: {% endif %}{{ entry.text }}</dd>
{% endfor %}
</dl>
{% endif %}

<h2>How this was made</h2>
<pre>{{ command }}</pre>
{% for run in runs %}
<p><span class="dot" style="background:{{ run.colour }}"></span><b>{{ run.label }}</b></p>
<dl>
<dt>checkpoint</dt><dd><code>{{ run.checkpoint }}</code></dd>
<dt>config</dt><dd><code>{{ run.config }}</code></dd>
<dt>data</dt><dd><code>{{ dumps(run.data) }}</code></dd>
{% if run.sampling %}
<dt>sampling</dt><dd>{% for name, value in run.sampling.items() %}{{ name }} {{ value }}{{ ", " if not loop.last }}{%
 endfor %}</dd>
{% endif %}
{% if run.step %}<dt>training step</dt><dd>{{ run.step }}</dd>{% endif %}

<dt>time, device</dt><dd>{{ "%.1f" | format(run.seconds) }} s on {{ run.device }}</dd>
<dt>versions</dt>
<dd>{% for name, version in run.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}</dd>
</dl>
{% endfor %}
</body>
</html>
"""
)
