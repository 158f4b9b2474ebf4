from foveal.connectors.linear import Linear


def test_parameter_count_of_the_paper():
    connector = Linear(width_in=1024, width_out=4096)
    assert sum(p.numel() for p in connector.parameters()) == 4_198_400
