"""The drawing of a search: step time against memory, the Pareto front joined."""

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 300, 70, 40
TICKS = 4


def scatter(search: dict) -> str:
    """An SVG of the candidates that fit; '' where fewer than two do."""
    points = {i: (r['bytes'] / 2**30, r['seconds'] * 1e3) for i, r in enumerate(search['results']) if r['seconds']}
    if len(points) < 2:
        return ''
    most_x, most_y = (1.1 * max(point[axis] for point in points.values()) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + x / most_x * (WIDTH - LEFT - 10), (HEIGHT - BOTTOM) * (1 - y / most_y) + 5

    shapes = []
    for tick in range(TICKS + 1):
        x, y = most_x * tick / TICKS, most_y * tick / TICKS
        (across, floor), (_, up) = place(x, 0), place(0, y)
        shapes.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{up:.1f}" y2="{up:.1f}"/>')
        shapes.append(f'<text x="{LEFT - 6}" y="{up + 4:.1f}" text-anchor="end">{y:.3g} ms</text>')
        shapes.append(f'<text x="{across:.1f}" y="{floor + 18:.1f}" text-anchor="middle">{x:.3g} GiB</text>')
    line = ' '.join('{:.1f},{:.1f}'.format(*place(*points[i])) for i in search['front'] if i in points)
    shapes.append(f'<polyline points="{line}"/>')
    for index, point in points.items():
        x, y = place(*point)
        kind = 'best' if index == search['recommended'] else 'front' if index in search['front'] else ''
        shapes.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
    return f'<svg class="scatter" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="step time against memory">{"".join(shapes)}</svg>'  # noqa: E501
