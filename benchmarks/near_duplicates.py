"""Which measure tells passages that are nearly the same from passages that are not, on pairs whose answer is known.

    python benchmarks/near_duplicates.py [--seed N] [--pairs PAIRS.jsonl ...] [--rows N]

The pairs are made from sections of manuals in ten languages that stand in this file. Near are: the section for another
model, one with a word changed, with three other numbers, with all of its numbers changed, with a short sentence added,
with two sentences exchanged, and with other line ends, case and punctuation. Not near are: another section of the same
manual, the same words in another order, half of one section and half of another, different content under the same
header, short texts of one form that differ in names, parts or numbers, and short texts whose roles are exchanged.

Prints precision and recall over the kinds (each kind has the same weight) of every measure at the best of its
thresholds and at others, and what the measure in use does kind by kind. Then the time it takes on files of pairs and on
N short made-up texts, and how large the groups become.
"""

import argparse
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nic_ray.duplicates import near_duplicates
from nic_ray.pairs import read_pairs
from nic_ray.words import words


class Labelled(NamedTuple):
    """Two texts, and whether they are nearly the same."""

    kind: str
    language: str
    left: str
    right: str
    near: bool


class Manual(NamedTuple):
    """What the pairs of a language are made from. "{m}" in a text is the name of a model."""

    gap: str
    """Between sentences."""
    models: tuple[str, ...]
    sections: tuple[tuple[str, ...], ...]
    """Sentences of each section: 40 to 100 words."""
    added: str
    """A short sentence that fits everywhere."""
    form: str
    """A short text: "{m}", "{part}" and "{n}" are filled in."""
    parts: tuple[str, ...]
    roles: tuple[str, str]
    """Two short texts of the same words."""


MANUALS = {
    "English": Manual(
        " ",
        ("Tarn 40", "Tarn 60", "Weldon C", "Brack II"),
        (
            (
                "Before the first start of the {m} in the morning, check the level of the hydraulic oil in the glass.",
                "If it stands below the lower mark, add oil of the same grade until it lies between the two marks.",
                "Let the engine idle for 3 minutes and watch for leaks at the hoses of the lift cylinder.",
                "The filter in the return line is changed every 500 hours, or when the lamp on the panel stays lit.",
                "Never open the tank cap while the pump runs, because the oil is under a pressure of 180 bar.",
            ),
            (
                "To remove the front wheel, park the truck on level ground and set the parking brake.",
                "Loosen the eight nuts by half a turn and raise the axle of the {m} with a jack for 5 tonnes.",
                "Put a stand under the frame rail, take off the nuts and pull the wheel straight out.",
                "When it goes back on, tighten the nuts crosswise to 450 Nm and tighten them again after 50 km.",
            ),
            (
                "The receiver loses its settings when the backup cell is empty.",
                "Open the cover on the rear, take out the old cell and put in a new one of 3 volts within 30 seconds.",
                "Then choose the station memory in the menu of the {m} and see whether the first channel is there.",
                "If the display shows an error, hold the reset key until the tone sounds twice.",
            ),
            (
                "Condensate forms at the evaporator of the {m} when the room is humid, and runs into the pan below.",
                "A float closes the contact of the drain pump when the water is 20 mm deep.",
                "Clean the pan each spring, and pour a litre of water through the hose to see that it runs off.",
                "Standing water lets algae grow and finally trips the overflow switch, which stops the compressor.",
                "Replace the hose when it has become brittle.",
            ),
        ),
        "Wear gloves and safety glasses for this work.",
        "Model {m}: the {part} is held by {n} screws, see drawing {n}.",
        ("fuel pump", "rear lamp", "air filter", "door lock", "cabin heater"),
        ("The oil flows from the pump to the tank.", "The oil flows from the tank to the pump."),
    ),
    "German": Manual(
        " ",
        ("Tarn 40", "Tarn 60", "Weldon C", "Brack II"),
        (
            (
                "Prüfen Sie vor dem ersten Start des {m} am Morgen den Stand des Hydrauliköls im Schauglas.",
                "Liegt er unter der unteren Marke, füllen Sie Öl derselben Sorte bis zwischen die Marken nach.",
                "Lassen Sie den Motor 3 Minuten leer laufen und achten Sie auf undichte Schläuche am Hubzylinder.",
                "Der Filter im Rücklauf wird alle 500 Stunden gewechselt, oder wenn die Lampe nicht erlischt.",
            ),
            (
                "Zum Abnehmen des Vorderrads stellen Sie das Fahrzeug eben ab und ziehen die Feststellbremse an.",
                "Lösen Sie die acht Muttern etwas und heben Sie die Achse des {m} mit einem Heber für 5 Tonnen an.",
                "Stellen Sie einen Bock unter den Rahmen und ziehen Sie das Rad ohne Muttern gerade heraus.",
                "Beim Anbau werden die Muttern über Kreuz mit 450 Nm angezogen und nach 50 km nachgezogen.",
            ),
        ),
        "Tragen Sie dabei Handschuhe und eine Schutzbrille.",
        "Modell {m}: {part} mit {n} Schrauben befestigt, siehe Zeichnung {n}.",
        ("Kraftstoffpumpe", "Rückleuchte", "Luftfilter", "Türschloss"),
        ("Das Öl fließt von der Pumpe zum Tank.", "Das Öl fließt vom Tank zur Pumpe."),
    ),
    "Russian": Manual(
        " ",
        ("Тарн 40", "Тарн 60", "Велдон С", "Брак II"),
        (
            (
                "Каждое утро перед первым пуском машины {m} проверьте уровень гидравлического масла по стеклу.",
                "Если он ниже нижней метки, долейте масло той же марки, пока уровень не окажется между двумя метками.",
                "Дайте двигателю поработать 3 минуты на холостом ходу и осмотрите шланги подъёмного цилиндра.",
                "Фильтр в сливной линии меняют каждые 500 часов или тогда, когда лампа на щитке не гаснет.",
            ),
            (
                "Чтобы снять переднее колесо, поставьте погрузчик на ровную площадку и затяните стояночный тормоз.",
                "Ослабьте восемь гаек на пол-оборота и поднимите мост {m} домкратом, рассчитанным на 5 тонн.",
                "Подставьте опору под раму, отверните гайки и снимите колесо, не перекашивая его.",
                "При установке затяните гайки крест-накрест моментом 450 Нм и подтяните их через 50 км.",
            ),
        ),
        "Работайте в перчатках и защитных очках.",
        "Модель {m}: {part} крепится {n} винтами, чертёж {n}.",
        ("топливный насос", "задний фонарь", "воздушный фильтр", "дверной замок"),
        ("Масло течёт из насоса в бак.", "Масло течёт из бака в насос."),
    ),
    "Greek": Manual(
        " ",
        ("Ταρν 40", "Ταρν 60", "Βέλντον Γ", "Μπρακ ΙΙ"),
        (
            (
                "Κάθε πρωί πριν από την πρώτη εκκίνηση του {m} ελέγξτε τη στάθμη του υδραυλικού λαδιού στο γυαλί.",
                "Αν βρίσκεται κάτω από το χαμηλό σημάδι, συμπληρώστε λάδι του ίδιου τύπου ανάμεσα στα δύο.",
                "Αφήστε τον κινητήρα 3 λεπτά στο ρελαντί και κοιτάξτε μήπως στάζουν οι σωλήνες του κυλίνδρου.",
                "Το φίλτρο της επιστροφής αλλάζει κάθε 500 ώρες ή όταν η λυχνία του πίνακα δεν σβήνει.",
            ),
            (
                "Για να βγάλετε τον μπροστινό τροχό, σταθμεύστε σε επίπεδο έδαφος και τραβήξτε το χειρόφρενο.",
                "Χαλαρώστε τα οκτώ παξιμάδια και σηκώστε τον άξονα του {m} με γρύλο που αντέχει 5 τόνους.",
                "Βάλτε ένα στήριγμα κάτω από το πλαίσιο, βγάλτε τα παξιμάδια και τραβήξτε τον τροχό ίσια προς τα έξω.",
                "Στην τοποθέτηση σφίξτε τα παξιμάδια σταυρωτά με 450 Nm και ξανά ύστερα από 50 χιλιόμετρα.",
            ),
        ),
        "Φοράτε γάντια και γυαλιά προστασίας.",
        "Μοντέλο {m}: {part} με {n} βίδες, σχέδιο {n}.",
        ("αντλία καυσίμου", "πίσω φως", "φίλτρο αέρα", "κλειδαριά πόρτας"),
        ("Το λάδι ρέει από την αντλία στο δοχείο.", "Το λάδι ρέει από το δοχείο στην αντλία."),
    ),
    "Arabic": Manual(
        " ",
        ("تارن 40", "تارن 60", "ولدون", "براك"),
        (
            (
                "افحص كل صباح قبل أول تشغيل للرافعة {m} مستوى الزيت الهيدروليكي في الزجاجة الجانبية.",
                "إذا كان المستوى تحت العلامة السفلى فأضف زيتا من النوع نفسه حتى يصل إلى ما بين العلامتين.",
                "اترك المحرك يدور 3 دقائق دون حمل وراقب خراطيم أسطوانة الرفع خشية التسرب.",
                "يستبدل المرشح في خط الرجوع كل 500 ساعة أو عندما يبقى المصباح في اللوحة مضيئا.",
                "لا تفتح غطاء الخزان والمضخة تعمل لأن الزيت تحت ضغط يبلغ 180 بارا.",
            ),
            (
                "لفك العجلة الأمامية أوقف المركبة على أرض مستوية وشد فرامل اليد جيدا.",
                "أرخ الصواميل الثماني نصف دورة ثم ارفع محور {m} برافعة تحمل 5 أطنان على الأقل.",
                "ضع حاملا تحت الإطار المعدني وانزع الصواميل واسحب العجلة إلى الخارج باستقامة.",
                "عند التركيب شد الصواميل بالتقاطع بعزم 450 نيوتن متر ثم شدها ثانية بعد 50 كيلومترا.",
            ),
        ),
        "ارتد القفازات والنظارات الواقية أثناء العمل.",
        "الطراز {m}: {part} مثبت بعدد {n} براغ، الرسم {n}.",
        ("مضخة الوقود", "المصباح الخلفي", "مرشح الهواء", "قفل الباب"),
        ("يجري الزيت من المضخة إلى الخزان.", "يجري الزيت من الخزان إلى المضخة."),
    ),
    "Hindi": Manual(
        " ",
        ("टार्न 40", "टार्न 60", "वेल्डन", "ब्रैक"),
        (
            (
                "हर सुबह {m} को पहली बार चालू करने से पहले शीशे में हाइड्रोलिक तेल का स्तर जाँच लें।",
                "यदि वह निचले निशान से नीचे हो तो उसी किस्म का तेल तब तक डालें जब तक स्तर दोनों निशानों के बीच न आ जाए।",
                "इंजन को 3 मिनट तक बिना भार के चलने दें और देखें कि लिफ्ट सिलेंडर की नली कहीं रिसती तो नहीं।",
                "वापसी लाइन का फ़िल्टर हर 500 घंटे पर या पैनल की बत्ती न बुझने पर बदला जाता है।",
            ),
            (
                "आगे का पहिया उतारने के लिए गाड़ी को समतल ज़मीन पर खड़ा करें और हाथ का ब्रेक लगाएँ।",
                "आठों नट आधा चक्कर ढीले करें और {m} की धुरी को 5 टन उठाने वाले जैक से ऊपर करें।",
                "चौखट के नीचे सहारा रखें, नट निकालें और पहिये को सीधा बाहर खींच लें।",
                "लगाते समय नट आड़े क्रम में 450 न्यूटन मीटर से कसें और 50 किलोमीटर बाद फिर कसें।",
            ),
        ),
        "काम करते समय दस्ताने और चश्मा पहनें।",
        "मॉडल {m}: {part} {n} पेंचों से कसा है, चित्र {n} देखें।",
        ("ईंधन पंप", "पिछली बत्ती", "हवा का फ़िल्टर", "दरवाज़े का ताला"),
        ("तेल पंप से टंकी में जाता है।", "तेल टंकी से पंप में जाता है।"),
    ),
    "Chinese": Manual(
        "",
        ("塔恩40", "塔恩60", "维尔登", "布拉克"),
        (
            (
                "每天早晨第一次启动{m}之前，必须从油位镜检查液压油的油位。",
                "如果油位低于下限，应当补充同一牌号的液压油，直到油位处于两个标记之间。",
                "让发动机怠速运转3分钟，并观察提升油缸的软管有没有渗漏。",
                "回油滤芯每500小时更换一次，或者在仪表板的指示灯常亮时更换。",
            ),
            (
                "拆卸前轮时，把车辆停在平整的地面上，并拉紧驻车制动。",
                "先将八个螺母松开半圈，然后用承载5吨的千斤顶顶起{m}的车桥。",
                "在车架下面放置支架，取下螺母，把车轮平直地拉出来。",
                "安装时按对角顺序以450牛米的力矩拧紧螺母，行驶50公里以后再次拧紧。",
            ),
        ),
        "作业时请戴好手套和护目镜。",
        "型号{m}：{part}用{n}个螺钉固定，见图{n}。",
        ("燃油泵", "尾灯", "空气滤清器", "车门锁"),
        ("机油从泵流到油箱。", "机油从油箱流到泵。"),
    ),
    "Japanese": Manual(
        "",
        ("ターン40", "ターン60", "ウェルドン", "ブラック"),
        (
            (
                "毎朝{m}を最初に始動する前に、油面計で作動油の量を点検してください。",
                "下限より少ないときは、同じ種類の作動油を二本の線の間に来るまで補充します。",
                "エンジンを3分間アイドリングさせ、昇降シリンダーのホースから漏れがないか確かめます。",
                "戻り側のフィルターは500時間ごとに、または警告灯が消えないときに交換します。",
            ),
            (
                "前輪を外すには、車両を平らな場所に止め、駐車ブレーキを引きます。",
                "八個のナットを半回転ゆるめ、5トンに耐えるジャッキで{m}の車軸を持ち上げます。",
                "フレームの下に台を置き、ナットを外して車輪をまっすぐ引き抜きます。",
                "取り付けるときは対角の順に450ニュートンメートルで締め、50キロ走行後にもう一度締めます。",
            ),
        ),
        "作業中は手袋と保護めがねを着用してください。",
        "型式{m}：{part}はねじ{n}本で固定、図{n}を参照。",
        ("燃料ポンプ", "尾灯", "エアフィルター", "ドアロック"),
        ("油はポンプからタンクへ流れます。", "油はタンクからポンプへ流れます。"),
    ),
    "Thai": Manual(
        " ",
        ("ทาร์น 40", "ทาร์น 60", "เวลดอน", "แบร็ก"),
        (
            (
                "ทุกเช้าก่อนสตาร์ทรถ {m} ครั้งแรก ให้ตรวจระดับน้ำมันไฮดรอลิกที่ช่องมองระดับ",
                "ถ้าระดับต่ำกว่าขีดล่าง ให้เติมน้ำมันเกรดเดียวกันจนอยู่ระหว่างสองขีด",
                "ปล่อยให้เครื่องยนต์เดินเบา 3 นาที และสังเกตว่าสายของกระบอกยกรั่วหรือไม่",
                "เปลี่ยนไส้กรองในท่อไหลกลับทุก 500 ชั่วโมง หรือเมื่อไฟบนแผงหน้าปัดติดค้าง",
            ),
            (
                "ในการถอดล้อหน้า ให้จอดรถบนพื้นราบและดึงเบรกมือให้แน่น",
                "คลายน็อตทั้งแปดตัวครึ่งรอบ แล้วยกเพลาของ {m} ด้วยแม่แรงที่รับน้ำหนักได้ 5 ตัน",
                "วางขาตั้งไว้ใต้โครงรถ ถอดน็อตออก แล้วดึงล้อออกมาตรง ๆ",
                "เมื่อใส่กลับให้ขันน็อตสลับกันด้วยแรงบิด 450 นิวตันเมตร และขันซ้ำเมื่อวิ่งไปแล้ว 50 กิโลเมตร",
            ),
        ),
        "สวมถุงมือและแว่นตานิรภัยขณะทำงาน",
        "รุ่น {m}: {part}ยึดด้วยสกรู {n} ตัว ดูรูป {n}",
        ("ปั๊มเชื้อเพลิง", "ไฟท้าย", "กรองอากาศ", "กลอนประตู"),
        ("น้ำมันไหลจากปั๊มไปยังถัง", "น้ำมันไหลจากถังไปยังปั๊ม"),
    ),
    "Korean": Manual(
        " ",
        ("타른 40", "타른 60", "웰던", "브랙"),
        (
            (
                "매일 아침 {m} 장비를 처음 시동하기 전에 유면계에서 유압유의 양을 점검하십시오.",
                "아래 눈금보다 낮으면 같은 등급의 유압유를 두 눈금 사이에 올 때까지 보충합니다.",
                "엔진을 3분 동안 공회전시키고 리프트 실린더의 호스에서 새는 곳이 없는지 살펴봅니다.",
                "회수관의 필터는 500시간마다 교환하거나 계기판의 경고등이 꺼지지 않을 때 교환합니다.",
                "펌프가 도는 동안에는 압력이 180바에 이르므로 탱크 뚜껑을 절대로 열지 마십시오.",
            ),
            (
                "앞바퀴를 떼어 내려면 차량을 평평한 땅에 세우고 주차 브레이크를 단단히 당깁니다.",
                "너트 여덟 개를 반 바퀴씩 풀고 5톤을 견디는 잭으로 {m} 장비의 차축을 들어 올립니다.",
                "차대 밑에 받침대를 놓고 너트를 모두 뺀 다음 바퀴를 똑바로 잡아당깁니다.",
                "다시 끼울 때는 너트를 대각선 순서로 450뉴턴미터까지 조이고 50킬로미터를 달린 뒤 다시 조입니다.",
            ),
        ),
        "작업할 때는 장갑과 보안경을 착용하십시오.",
        "모델 {m}: {part} 나사 {n}개로 고정, 그림 {n} 참조.",
        ("연료 펌프", "뒤쪽 등", "공기 필터", "문 잠금장치"),
        ("기름은 펌프에서 탱크로 흐릅니다.", "기름은 탱크에서 펌프로 흐릅니다."),
    ),
}


def labelled_pairs(seed: int = 0) -> list[Labelled]:
    """Pairs of each kind in each language, some with several draws."""
    luck = random.Random(seed)
    found: list[Labelled] = []
    for language, manual in MANUALS.items():

        def add(kind: str, left: str, right: str, near: bool, language: str = language) -> None:
            found.append(Labelled(kind, language, left, right, near))

        for number, sentences in enumerate(manual.sections):
            own, other = luck.sample(manual.models, 2)
            text = manual.gap.join(sentences).replace("{m}", own)
            add("another model", text, manual.gap.join(sentences).replace("{m}", other), True)
            for _ in range(3):
                add("one word changed", text, _other_word(text, manual, number, luck), True)
                add("three numbers changed", text, _other_numbers(text, 3, luck), True)
            add("every number changed", text, _other_numbers(text, 99, luck), True)
            more = list(sentences)
            more.insert(luck.randrange(len(more) + 1), manual.added)
            add("a sentence added", text, manual.gap.join(more).replace("{m}", own), True)
            moved = list(sentences)
            place = luck.randrange(len(moved) - 1)
            moved[place : place + 2] = moved[place : place + 2][::-1]
            add("two sentences exchanged", text, manual.gap.join(moved).replace("{m}", own), True)
            add("set otherwise", text, _set_otherwise(text), True)
            add("same words, another order", text, _shuffled(text, manual.gap, luck), False)
            for another in manual.sections[:number] + manual.sections[number + 1 :]:
                whole = manual.gap.join(another).replace("{m}", own)
                add("another section", text, whole, False)
                half = [*sentences[: len(sentences) // 2], *another[len(another) // 2 :]]
                add("half of another section", text, manual.gap.join(half).replace("{m}", own), False)
                header = f"{manual.added}{manual.gap}{sentences[0]}"
                add("same header", f"{header} {text}", f"{header} {whole}", False)
        for left, right in itertools.combinations(manual.models, 2):
            part = luck.choice(manual.parts)
            add("same form, another name", _filled(manual, left, part, luck), _filled(manual, right, part, luck), False)
            text = _filled(manual, "{m}", part, luck)
            add("same form, only the name", text.replace("{m}", left), text.replace("{m}", right), False)
        for left, right in itertools.combinations(manual.parts, 2):
            model = luck.choice(manual.models)
            add(
                "same form, another part",
                _filled(manual, model, left, luck),
                _filled(manual, model, right, luck),
                False,
            )
        add("exchanged roles", *manual.roles, False)
    return found


def _other_word(text: str, manual: Manual, number: int, luck: random.Random) -> str:
    """The text with a word (two characters where there are no spaces) out of another section in place of one."""
    another = manual.gap.join(manual.sections[number - 1])
    if manual.gap and not re.search(r"[\u0e00-\u0e7f]", text):
        spaced, others = text.split(" "), [word for word in another.split(" ") if "{" not in word]
        spaced[luck.randrange(len(spaced))] = luck.choice(others)
        return " ".join(spaced)
    wide = 6 if re.search(r"[\u0e00-\u0e7f]", text) else 2
    place, start = luck.randrange(len(text) - wide), luck.randrange(len(manual.added) - wide)
    return text[:place] + manual.added[start : start + wide] + text[place + wide :]


def _other_numbers(text: str, most: int, luck: random.Random) -> str:
    places = [match.span() for match in re.finditer(r"\d+", text)]
    for start, end in sorted(luck.sample(places, min(most, len(places))), reverse=True):
        text = text[:start] + str(luck.randrange(10 ** (end - start - 1), 10 ** (end - start))) + text[end:]
    return text


def _set_otherwise(text: str) -> str:
    return text.upper().replace(", ", " - ").replace(". ", ".\n\n").replace("。", "\n")


def _shuffled(text: str, gap: str, luck: random.Random) -> str:
    parts = words(text)
    luck.shuffle(parts)
    return gap.join(parts)


def _filled(manual: Manual, model: str, part: str, luck: random.Random) -> str:
    text = manual.form.replace("{m}", model).replace("{part}", part)
    return re.sub(r"\{n\}", lambda _: str(luck.randrange(2, 99)), text)


def ngrams(units: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """Sequences of so many units; a shorter text is a single one."""
    return [tuple(units[start : start + length]) for start in range(max(1, len(units) - length + 1))]


def jaccard(left: Sequence[object], right: Sequence[object]) -> float:
    """Shared items by all items, each as often as it occurs."""
    one, other = Counter(left), Counter(right)
    return sum((one & other).values()) / max(1, sum((one | other).values()))


def containment(left: Sequence[object], right: Sequence[object]) -> float:
    """Shared items by the items of the shorter text."""
    return sum((Counter(left) & Counter(right)).values()) / max(1, min(len(left), len(right)))


def set_jaccard(left: Sequence[object], right: Sequence[object]) -> float:
    """Shared items by all items, each once."""
    return len(set(left) & set(right)) / max(1, len(set(left) | set(right)))


def edit_similarity(left: Sequence[str], right: Sequence[str]) -> float:
    """1 less the share of words that must be inserted, left out or exchanged."""
    row = list(range(len(right) + 1))
    for i, one in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return 1 - row[-1] / max(1, len(left), len(right))


def ended(units: Sequence[str]) -> list[str]:
    """Words between two marks, so that the first and the last one count like the others."""
    return ["", *units, ""]


MEASURES: dict[str, Callable[[str, str], float]] = {
    **{
        f"Jaccard of sequences of {n} words": (lambda a, b, n=n: set_jaccard(ngrams(words(a), n), ngrams(words(b), n)))
        for n in (2, 3, 5)
    },
    "Jaccard of words, each as often as it occurs": lambda a, b: jaccard(words(a), words(b)),
    "Jaccard of pairs of words, ends included": lambda a, b: set_jaccard(
        ngrams(ended(words(a)), 2), ngrams(ended(words(b)), 2)
    ),
    "the same, each as often as it occurs": lambda a, b: jaccard(
        ngrams(ended(words(a)), 2), ngrams(ended(words(b)), 2)
    ),
    "containment of pairs of words": lambda a, b: containment(ngrams(ended(words(a)), 2), ngrams(ended(words(b)), 2)),
    "edit similarity of words": lambda a, b: edit_similarity(words(a), words(b)),
    **{
        f"Jaccard of sequences of {n} characters": (
            lambda a, b, n=n: set_jaccard(ngrams(" ".join(words(a)), n), ngrams(" ".join(words(b)), n))
        )
        for n in (3, 5, 8)
    },
}
THRESHOLDS = np.round(np.arange(0.5, 1.0, 0.01), 2)


def by_kind(values: Sequence[bool], pairs: Sequence[Labelled]) -> dict[str, float]:
    """Kind -> share of its pairs that are called near."""
    kinds: dict[str, list[bool]] = {}
    for value, pair in zip(values, pairs, strict=True):
        kinds.setdefault(pair.kind, []).append(bool(value))
    return {kind: float(np.mean(own)) for kind, own in kinds.items()}


def precision_and_recall(values: Sequence[bool], pairs: Sequence[Labelled]) -> tuple[float, float]:
    """Of what is called near and of what is, each kind with the same weight."""
    near = {pair.kind for pair in pairs if pair.near}
    shares = by_kind(values, pairs)
    right = sum(share for kind, share in shares.items() if kind in near)
    wrong = sum(share for kind, share in shares.items() if kind not in near)
    return right / max(right + wrong, 1e-12), right / len(near)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=Path, nargs="*", default=[Path("data/reference/pairs.jsonl")])
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    pairs = labelled_pairs(arguments.seed)
    print(f"{len(pairs)} pairs, {sum(pair.near for pair in pairs)} of them near, in {len(MANUALS)} languages")
    print(f"{'measure':50s} threshold  precision  recall")
    for name, measure in MEASURES.items():
        values = np.array([measure(pair.left, pair.right) for pair in pairs])
        rated = {t: precision_and_recall((values >= t).tolist(), pairs) for t in THRESHOLDS.tolist()}
        best = max(rated, key=lambda t: 2 / (1 / max(rated[t][0], 1e-9) + 1 / max(rated[t][1], 1e-9)))
        for threshold in sorted({best, 0.7, 0.8, 0.9}):
            mark = " best" if threshold == best else ""
            print(f"{name:50s} {threshold:9.2f}  {rated[threshold][0]:9.3f}  {rated[threshold][1]:6.3f}{mark}")
    called = [len(set(near_duplicates([pair.left, pair.right]).tolist())) == 1 for pair in pairs]
    print("\nin use: precision {:.3f}, recall {:.3f}".format(*precision_and_recall(called, pairs)))
    for kind, share in by_kind(called, pairs).items():
        wanted = next(pair.near for pair in pairs if pair.kind == kind)
        missed = Counter(
            pair.language for pair, own in zip(pairs, called, strict=True) if pair.kind == kind and own != wanted
        )
        print(f"  {kind:28s} {'near' if wanted else 'not near':9s} called near {share:.2f}  wrong in {dict(missed)}")
    luck = np.random.default_rng(arguments.seed)
    vocabulary = np.array([f"w{number}" for number in range(20_000)])
    drawn = luck.zipf(1.2, size=(arguments.rows, 12)) % len(vocabulary)
    files = {str(path): list(dict.fromkeys(pair.positive for pair in read_pairs(path))) for path in arguments.pairs}
    files[f"{arguments.rows} short texts"] = [" ".join(row) for row in vocabulary[drawn].tolist()]
    for name, texts in files.items():
        start = time.perf_counter()
        groups = np.bincount(near_duplicates(texts))
        print(
            f"{name}: {len(texts)} texts, {len(groups)} groups, the largest of {groups.max()}, "
            f"{time.perf_counter() - start:.2f} s"
        )


if __name__ == "__main__":
    main()
