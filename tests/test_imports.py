"""No two modules import each other, at whatever distance; `lint-imports` checks that packages import downwards only."""

import grimp
import networkx


def test_no_circle_of_modules():
    graph = grimp.build_graph("thinsight")
    edges = networkx.DiGraph(
        (module, imported)
        for module in graph.modules - {"thinsight"}  # its public names load lazily
        for imported in graph.find_modules_directly_imported_by(module)
    )
    assert [sorted(circle) for circle in networkx.strongly_connected_components(edges) if len(circle) > 1] == []
