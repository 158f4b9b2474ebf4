"""Words to be read in the starter scenes: short, common, and none of them a drawing, a colour, a place or a number."""

from foveal.core.errors import InputError

_TABLE = """
music paper river stone happy garden winter market ticket letter
summer dream hotel ocean smile power lucky magic queen pilot
fresh open sale exit today taste story peace voice dance
basin metal sugar salt juice soup lunch dinner party photo
movie radio studio school office museum park beach island forest
desert valley bridge street corner tunnel harbor farm village city
hello thanks please welcome quiet slow fast stop wait push
pull warm cold dry soft bold brave calm clever gentle
honest jolly kind lively merry neat polite proud quick rapid
shiny simple smart sweet tidy wild wise young zesty eager
doctor baker farmer artist singer driver writer teacher sailor king
monday friday evening night morning minute hour week month year
"""
WORDS: tuple[str, ...] = tuple(_TABLE.split())


def words(count: int) -> tuple[str, ...]:
    """The first `count` words; InputError outside 1 to the number there are."""
    if not 1 <= count <= len(WORDS):
        raise InputError(f"{count} words asked for; choose 1 to {len(WORDS)}")
    return WORDS[:count]
