"""The section of a report that says what the pairs are like: sentences, a table and a figure of the lengths."""

from plotly.subplots import make_subplots

from nic_ray.dataset.profile import BINS, Profile
from nic_ray.domains import omitted_domains, shown_domains
from nic_ray.report.elements import Html, figure_html, sentence, table
from nic_ray.report.profile import HEADINGS, all_cells_of, describe_profile, sizes_of


def profile_section(profile: Profile) -> Html:
    """The profile in a report: sentences, a table of the domains and the whole, and a figure of the lengths."""
    for line in describe_profile(profile):
        yield sentence(f"{line[0].upper()}{line[1:]}.")
    domains = shown_domains(sizes_of(profile))
    rows = [
        [omitted_domains(sizes_of(profile))] if name is None else all_cells_of(name, profile.domains[name])
        for name in domains
    ]
    yield table(HEADINGS, [*rows, all_cells_of("all", profile.whole)])
    yield sentence(
        "Words of a question: those that a search by words compares, without English words that only ask. Where most "
        "stand in the passage, such a search alone finds much; where few do, there is more to learn."
    )
    if profile.histograms:
        yield _lengths_figure(profile)


def _lengths_figure(profile: Profile) -> str:
    """Draw the histograms of queries and of passages beside each other, with the token limit."""
    figure = make_subplots(cols=len(profile.histograms), horizontal_spacing=0.1)
    colours = {"queries": "#0072B2", "passages": "#E69F00"}
    for column, (kind, histogram) in enumerate(profile.histograms.items(), 1):
        starts = [number * histogram.width for number in range(BINS + 1)]
        spans = [f"{start} to {start + histogram.width - 1} tokens" for start in starts[:-1]]
        figure.add_bar(
            x=[start + histogram.width / 2 for start in starts],
            y=histogram.counts,
            width=histogram.width,
            name=kind,
            marker={"color": colours[kind], "pattern": {"shape": [""] * BINS + ["/"]}},
            text=[*spans, f"{starts[-1]} tokens or more"],
            textposition="none",
            hovertemplate="%{text}: %{y}<extra></extra>",
            row=1,
            col=column,
        )
        if profile.max_tokens <= starts[-1] + histogram.width:
            limit = {"color": "#666666", "dash": "dash", "width": 2}
            figure.add_vline(x=profile.max_tokens, line=limit, opacity=1, col=column)
        figure.update_xaxes(title=f"tokens of the {kind}<br>(hatched: all longer ones)", rangemode="tozero", col=column)
    figure.update_yaxes(title="texts", col=1)
    return figure_html("lengths", figure, width=380 * len(profile.histograms))
