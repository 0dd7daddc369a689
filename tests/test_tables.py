"""Rows of cells as text: CSV, Markdown, LaTeX and HTML."""

from paribus.tables import Link, csv_text, html_table, latex, latex_table, markdown_table


def test_csv_quotes_what_it_must_and_leaves_none_empty():
    assert csv_text([["a", "b"], ["1,5", None], ['say "x"', 2.5]]) == 'a,b\n"1,5",\n"say ""x""",2.5\n'


def test_markdown_keeps_bars_inside_cells():
    assert (
        markdown_table(["a\n%", "b"], [["x|y", "1"]], left=["b"])
        == "| a % | b |\n| --: | :-- |\n| x\\|y | 1 |"
    )


def test_latex_escapes_every_character_of_its_own():
    assert latex(r"100% & $5 #1 a_b {c} ~ ^ \d") == (
        r"100\% \& \$5 \#1 a\_b \{c\} \textasciitilde{} \textasciicircum{} \textbackslash{}d"
    )


def test_latex_has_a_minus_where_a_number_is_negative_and_hyphens_elsewhere():
    assert latex("-29.0 ± 2.5") == r"$-$29.0 $\pm$ 2.5"
    assert latex("ResNet-50, 1e-3, < 0.001, a-b") == "ResNet-50, 1e-3, $<$ 0.001, a-b"


def test_a_latex_table_has_a_row_for_the_second_lines_of_its_titles():
    assert latex_table(["a", "b\n%"], [["x", "1"]], left=["a"]).splitlines() == [
        r"\begin{tabular}{@{}lr@{}}", r"\toprule", r"a & b \\", r" & \% \\", r"\midrule", r"x & 1 \\", r"\bottomrule",
        r"\end{tabular}",
    ]  # fmt: skip


def test_an_html_table_has_heads_in_both_directions_and_nothing_unescaped():
    rows = [["<b>", "62.0 ±  5.0", Link("it & all", 'x"y.html')]]
    text = html_table(["a", "b\n%", "c"], rows, left=["a", "c"], label='"its"', marks=["better"])
    assert text == (
        '<div class="scroll" role="region" aria-label="&quot;its&quot;" tabindex="0"><table>\n'
        '<thead><tr><th scope="col">a</th><th scope="col" class="number">b<br>%</th><th scope="col">c</th></tr></thead>\n'
        "<tbody>\n"
        '<tr class="better"><th scope="row">&lt;b&gt;</th><td class="number">62.0 ± \u20075.0</td>'
        '<td><a href="x&quot;y.html">it &amp; all</a></td></tr>\n'
        "</tbody>\n</table></div>"
    )
