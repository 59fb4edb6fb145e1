"""What a receipt tells after a withdrawal, in the language in which the person had read the notice.

The words are signed with the receipt. A language that is not here gives English, and the receipt says which it is.
"""

from types import MappingProxyType

DEFAULT = "en"

# Each language has the same keys; ``why`` is said of every job.
ACCOUNTS = MappingProxyType(
    {
        "en": {
            "from_now_on": (
                "Your records are left out of every round that starts after this withdrawal. "
                "A round that was already under way may still finish with them."
            ),
            "why": "Your records changed a sum over many people. The sum was used and nothing in it can be taken apart.",
            "still_possible": (
                "You can ask the provider to have the model trained again without you, or wait for its expiry."
            ),
        },
        "fr": {
            "from_now_on": (
                "Vos données sont exclues de chaque tour qui commence après ce retrait. "
                "Un tour déjà en cours peut encore se terminer avec elles."
            ),
            "why": (
                "Vos données ont modifié une somme portant sur de nombreuses personnes. "
                "Cette somme a été utilisée et rien ne peut plus en être séparé."
            ),
            "still_possible": (
                "Vous pouvez demander au fournisseur de faire entraîner le modèle de nouveau sans vous, "
                "ou attendre son expiration."
            ),
        },
        "de": {
            "from_now_on": (
                "Deine Daten bleiben in jeder Runde außen vor, die nach diesem Widerruf beginnt. "
                "Eine Runde, die schon lief, kann noch mit ihnen enden."
            ),
            "why": (
                "Deine Daten haben eine Summe über viele Menschen verändert. "
                "Die Summe wurde verwendet, und nichts in ihr lässt sich wieder trennen."
            ),
            "still_possible": (
                "Du kannst den Anbieter bitten, das Modell ohne dich neu trainieren zu lassen, "
                "oder warten, bis es abläuft."
            ),
        },
        "es": {
            "from_now_on": (
                "Tus datos quedan fuera de cada ronda que empiece después de esta retirada. "
                "Una ronda que ya estaba en marcha puede terminar aún con ellos."
            ),
            "why": (
                "Tus datos cambiaron una suma de muchas personas. "
                "La suma se utilizó y nada de ella se puede separar ya."
            ),
            "still_possible": (
                "Puedes pedir al proveedor que haga entrenar de nuevo el modelo sin ti, o esperar a que caduque."
            ),
        },
    }
)


def account_language(language: str) -> str:
    """Return in which language a reader of ``language`` gets the account: that one, its main language, or English."""
    wanted = language.casefold()
    while wanted:
        if wanted in ACCOUNTS:
            return wanted
        wanted = wanted.rpartition("-")[0]
    return DEFAULT
